"""Data sets for detection: COCO's annotation files checked and read, batches, and augmentation."""
