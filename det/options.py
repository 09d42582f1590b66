"""What can be chosen in this package, by name; free of torch, for command lines and configs."""

HEADS = ("ssdlite", "ssdlite_fpn", "pico96", "pico128")
VARIANTS = ("paper", "torchvision", "paddle")
RESIZES = ("stretch", "letterbox")
ANCHOR_LOSSES = ("softmax", "focal", "quality_focal")
"""Of heads with anchors, the default first."""
LOSS_KINDS = (*ANCHOR_LOSSES, "aligned")
BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
STRENGTHS = ("ssd", "crop", "flip", "none")
