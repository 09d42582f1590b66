"""Frames from videos, cameras, streams and images, and where drawn ones go."""
