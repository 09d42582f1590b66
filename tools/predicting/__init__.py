"""Models from their files, and what they find in images as files."""
