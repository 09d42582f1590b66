"""COCO's annotation files as a data set of images and boxes, and their augmentation."""
