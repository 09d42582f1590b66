"""Lasting ids for the objects of a video: trackers, trails, and what scores tracks."""
