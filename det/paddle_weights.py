"""PaddleDetection's PicoDet on MobileNetV3-Large: its names translated to ours.

The graph is `configs/picodet/legacy_model/more_config/picodet_mobilenetv3_large_1x_416_coco.yml` of PaddleDetection.
"""

from collections.abc import Mapping

from torch import Tensor

from backbone.errors import InputError
from backbone.weights.loading import with_norm_eps
from backbone.weights.paddle import conv_norm, finished
from backbone.weights.translation import highest, linear, renamed
from det.heads.pico import NUM_BINS, SIZES

SIGN = "neck.conv_t.convs.0.conv.weight"
NMS_IOU = 0.6
IMAGE_SIZE = 416
NORM_EPS = 1e-5
BACKBONE = "mobilenet_v3_large_randl"
"""Paddle's table: the first block expands, and squeeze-and-excite has exactly a quarter of the channels."""


def arguments(state: Mapping[str, Tensor], source: str) -> dict[str, str | int]:
    """The keywords of `det.create` that build a checkpoint's model.

    Raises:
        InputError: the backbone is another one, or the neck has the channels of none of our heads.
    """
    channels = len(state[SIGN])
    depth = 1 + highest(r"head\.conv_feat\.cls_conv_dw0\.(\d+)\.", dict(state))
    heads = [name for name, size in SIZES.items() if size == (channels, depth)]
    blocks = highest(r"backbone\.conv(\d+)\.linear_conv", dict(state)) - 1
    if blocks != 15 or not heads or "head.head_cls0.bias" not in state:
        raise InputError(
            f"{source}: PaddleDetection's PicoDet, but not on MobileNetV3-Large with a neck of 128 channels; no other "
            "is known"
        )
    return {
        "head": heads[0],
        "backbone": BACKBONE,
        "num_classes": len(state["head.head_cls0.bias"]) - 4 * NUM_BINS,
        "image_size": IMAGE_SIZE,
    }


def translate(state: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """A checkpoint's tensors by our names; names without a translation stay, and a strict load reports them.

    Arguments:
        norm_eps: of our body's norms; the scales of Paddle's, whose epsilon is 1e-5, are adapted.
    """
    names = conv_norm("backbone.conv1", "backbone.stem")
    for number in range(1, highest(r"backbone\.conv(\d+)\.linear_conv", dict(state))):
        theirs, ours = f"backbone.conv{number + 1}", f"backbone.blocks.{number}"
        for layer, part in (("expand_conv", "expand"), ("bottleneck_conv", "depthwise"), ("linear_conv", "project")):
            names |= conv_norm(f"{theirs}.{layer}", f"{ours}.{part}")
        names |= linear(f"{theirs}.mid_se.conv1", f"{ours}.squeeze_excite.reduce")
        names |= linear(f"{theirs}.mid_se.conv2", f"{ours}.squeeze_excite.expand")
    for number in range(3):
        names |= conv_norm(f"neck.conv_t.convs.{number}", f"head.laterals.{number}")
    names |= _separable("neck.first_top_conv", "head.top_from_lateral")
    names |= _separable("neck.second_top_conv", "head.top_from_merged")
    for number in range(2):
        names |= _separable(f"neck.downsamples.{number}", f"head.downsample.{number}")
        for their_path, our_path in (("top_down_blocks", "top_down"), ("bottom_up_blocks", "bottom_up")):
            theirs, ours = f"neck.{their_path}.{number}", f"head.{our_path}.{number}"
            names |= conv_norm(f"{theirs}.main_conv", f"{ours}.main")
            names |= conv_norm(f"{theirs}.short_conv", f"{ours}.short")
            names |= conv_norm(f"{theirs}.final_conv", f"{ours}.project")
            names |= conv_norm(f"{theirs}.blocks.0.conv1", f"{ours}.reduce")
            names |= _separable(f"{theirs}.blocks.0.conv2", f"{ours}.separable")
    for level in range(4):
        for depth in range(1 + highest(rf"head\.conv_feat\.cls_conv_dw{level}\.(\d+)\.", dict(state))):
            for layer, part in (("dw", "depthwise"), ("pw", "project")):
                theirs = f"head.conv_feat.cls_conv_{layer}{level}.{depth}"
                names |= conv_norm(theirs, f"head.towers.{level}.{depth}.{part}", norm="norm")
    ours = finished(renamed(dict(state), names))
    ours.pop("head.distribution_project.project", None)  # the numbers 0 to 7
    for level in range(4):
        for value in ("weight", "bias"):
            both = ours.pop(f"head.head_cls{level}.{value}", None)
            if both is not None:
                ours[f"head.class_predictors.{level}.{value}"] = both[: -4 * NUM_BINS]
                ours[f"head.distance_predictors.{level}.{value}"] = both[-4 * NUM_BINS :]
    body = {key: value for key, value in ours.items() if key.startswith("backbone.")}
    return ours | with_norm_eps(body, NORM_EPS, norm_eps)


def _separable(theirs: str, ours: str) -> dict[str, str]:
    """The names of a depthwise and a pointwise convolution with their norms -> those of our `Separable`."""
    names = {}
    for layer, norm, part in (("dwconv", "bn1", "depthwise"), ("pwconv", "bn2", "project")):
        names |= conv_norm(theirs, f"{ours}.{part}", convolution=layer, norm=norm)
    return names
