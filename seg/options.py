"""What can be chosen in this package, by name; free of torch, for command lines and configs."""

HEADS = (
    "lraspp",
    "raspp",
    "fuse",
    "deeplabv3",
    "deeplabv3plus",
    "fpn",
    "linknet",
    "manet",
    "pan",
    "pspnet",
    "segformer",
    "unet",
    "upernet",
)
VARIANTS = ("paper", "torchvision", "paddle")
POOLINGS = ("windows", "global")
LOSSES = ("cross_entropy", "ohem", "dice", "jaccard", "lovasz", "focal")
ANNOTATIONS = ("gtFine", "gtCoarse")
"""Cityscapes' folders of labels: fine, and coarse; the split train_extra has coarse labels only."""
