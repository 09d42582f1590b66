"""Heads built on the declared features of a backbone's taps, each with its anchors."""
