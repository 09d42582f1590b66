"""What can be chosen in this package, by name; free of torch, for command lines and configs."""

HEADS = ("ssdlite", "ssdlite_fpn", "pico96", "pico128")
VARIANTS = ("paper", "torchvision")
RESIZES = ("stretch", "letterbox")
LOSS_KINDS = ("softmax", "focal", "quality_focal", "aligned")
BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
STRENGTHS = ("ssd", "crop", "flip", "none")
