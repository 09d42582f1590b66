"""What can be chosen in this package, by name; free of torch, for command lines and configs."""

PADDINGS = ("symmetric", "same")
POLICIES = ("none", "randaugment", "autoaugment")
INTERPOLATIONS = ("bilinear", "bicubic")
