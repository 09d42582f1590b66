"""Data sets for segmentation: Cityscapes, folders of images and masks, prepared copies of both, and augmentation."""
