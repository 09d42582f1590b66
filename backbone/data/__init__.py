"""Images and masks from disk, and images in one folder per class."""
