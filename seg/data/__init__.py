"""Images with a label for each pixel: Cityscapes, one's own folders, prepared copies, and their augmentation."""
