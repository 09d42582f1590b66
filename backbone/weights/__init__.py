"""Weights files: every publisher's layout translated to ours, loaded strictly."""
