"""Sweeps: what they search in, their trials, and what they show."""
