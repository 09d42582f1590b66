"""PaddleDetection's PicoDet and SSDLite on MobileNetV3: their names translated to ours.

PicoDet's graph is `configs/picodet/legacy_model/more_config/picodet_mobilenetv3_large_1x_416_coco.yml` of
PaddleDetection, SSDLite's `configs/ssd/ssdlite_mobilenet_v3_{large,small}_320_coco.yml`. The files of SSDLite that were
published are older, of the static graph of `static/configs/mobile`: the same network with other names, and with the
background as the first class, not the last.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from backbone.errors import InputError
from backbone.weights.loading import with_norm_eps
from backbone.weights.paddle import NETWORKS, conv_norm, finished
from backbone.weights.translation import highest, linear, renamed
from det.heads.anchors import anchors_per_cell
from det.heads.pico import NUM_BINS, SIZES
from det.heads.ssdlite import EXTRA_CHANNELS

PICODET = "neck.conv_t.convs.0.conv.weight"
SSDLITE, SSDLITE_STATIC = "ssd_head.boxes0.pw_conv.weight", "loc_1pw_weights"
SIGNS = (PICODET, SSDLITE, SSDLITE_STATIC)
"""Tensors that tell these checkpoints: every one has exactly one of them."""
NMS_IOU = {"picodet": 0.6, "ssdlite": 0.45}
SCORES = {"picodet": "sigmoid", "ssdlite": "softmax"}
IMAGE_SIZES = {"picodet": 416, "ssdlite": 320}
NORM_EPS = 1e-5
TAILS = {480: "detection", 288: "detection", 960: "full", 576: "full"}
"""By the channels of the last 1x1 convolution; the published SSDLite has the halved tail."""


class Predictor(NamedTuple):
    """What SSDLite's predictors are called."""

    ours: str
    static: str


PREDICTORS = {"boxes": Predictor("box_predictors", "loc"), "scores": Predictor("class_predictors", "conf")}
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
STATIC_RULES: tuple[Rule, ...] = (
    (r"^backbone\.", ""),
    (r"^ssd_head\.(boxes|scores)(\d+)", lambda found: f"{PREDICTORS[found[1]].static}_{int(found[2]) + 1}"),
    (r"\.(expand|linear)_conv\.", r"_\1."),
    (r"\.bottleneck_conv\.", "_depthwise."),
    (r"\.pointwise_conv\.", "_extra1."),
    (r"\.depthwise_conv\.", "_extra2_dw."),
    (r"\.normal_conv\.", "_extra2_sep."),
    (r"\.mid_se\.conv(\d)\.weight$", r"_se_\1_weights"),
    (r"\.mid_se\.conv(\d)\.bias$", r"_se_\1_offset"),
    (r"\.(d|p)w_conv\.weight$", r"\1w_weights"),
    (r"\.conv\.weight$", "_weights"),
    (r"\.bn\.weight$", "_bn_scale"),
    (r"\.bn\.bias$", "_bn_offset"),
    (r"\.bn\._", "_bn_"),
)
"""From a tensor's name in PaddleDetection's models of today to that in the static graph, one after the other."""


def kind(state: Mapping[str, Tensor]) -> str:
    """ "picodet" or "ssdlite", of a state dict with one of `SIGNS`."""
    return "picodet" if PICODET in state else "ssdlite"


def arguments(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The keywords of `det.create` that build a checkpoint's model.

    Raises:
        InputError: the backbone is another one, or the neck has the channels of none of our heads.
    """
    return _picodet_arguments(state, source) if kind(state) == "picodet" else _ssdlite_arguments(state, source)


def translate(state: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """A checkpoint's tensors by our names; names without a translation stay, and a strict load reports them.

    Arguments:
        norm_eps: of the norms of our body and of SSDLite's head; Paddle's have an epsilon of 1e-5, and their scales are
            adapted.
    """
    return _translate_picodet(state, norm_eps) if kind(state) == "picodet" else _translate_ssdlite(state, norm_eps)


def _picodet_arguments(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    channels = len(state[PICODET])
    depth = 1 + highest(r"head\.conv_feat\.cls_conv_dw0\.(\d+)\.", dict(state))
    heads = [name for name, size in SIZES.items() if size == (channels, depth)]
    blocks = _number_of_blocks(state)
    if blocks != 15 or not heads or "head.head_cls0.bias" not in state:
        raise InputError(
            f"{source}: PaddleDetection's PicoDet, but not on MobileNetV3-Large with a neck of 128 channels; no other "
            "is known"
        )
    return {
        "head": heads[0],
        "backbone": NETWORKS[blocks],
        "num_classes": len(state["head.head_cls0.bias"]) - 4 * NUM_BINS,
        "image_size": IMAGE_SIZES["picodet"],
    }


def _ssdlite_arguments(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    blocks = _number_of_blocks(state)
    last, boxes, classes = (
        len(state.get(name, state.get(_static(name), ())))
        for name in (f"backbone.conv{blocks + 2}.conv.weight", SSDLITE, "ssd_head.scores0.pw_conv.weight")
    )
    num_anchors = anchors_per_cell("paddle")[0]
    if blocks not in NETWORKS or last not in TAILS or boxes != 4 * num_anchors or classes % num_anchors:
        raise InputError(
            f"{source}: PaddleDetection's SSDLite, but not on MobileNetV3 with {num_anchors} anchors in the cells of "
            "the first map; no other is known"
        )
    return {
        "head": "ssdlite",
        "backbone": NETWORKS[blocks],
        "num_classes": classes // num_anchors,
        "variant": "paddle",
        "tail": TAILS[last],
        "image_size": IMAGE_SIZES["ssdlite"],
    }


def _translate_ssdlite(state: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    blocks = _number_of_blocks(state)
    names = _body_names(blocks) | conv_norm(f"backbone.conv{blocks + 2}", "backbone.last")
    for number in range(len(EXTRA_CHANNELS)):
        theirs, ours = f"backbone.conv{blocks + 3 + number}", f"head.extras.{number}"
        for layer, part in (("pointwise", "reduce"), ("depthwise", "depthwise"), ("normal", "project")):
            names |= conv_norm(f"{theirs}.{layer}_conv", f"{ours}.{part}")
    anchors = anchors_per_cell("paddle")
    for their_path, predictor in PREDICTORS.items():
        for number in range(len(anchors)):
            theirs, ours = f"ssd_head.{their_path}{number}", f"head.{predictor.ours}.{number}"
            names |= conv_norm(theirs, f"{ours}.depthwise", convolution="dw_conv")
            names[f"{theirs}.pw_conv.weight"] = f"{ours}.project.weight"
    if SSDLITE_STATIC in state:
        names = {_static(theirs): ours for theirs, ours in names.items()}
    ours = with_norm_eps(finished(renamed(dict(state), names)), NORM_EPS, norm_eps)
    if SSDLITE in state:
        for number, num_anchors in enumerate(anchors):
            key = f"head.class_predictors.{number}.project.weight"
            if key in ours and len(ours[key]) % num_anchors == 0:  # else a strict load says what is wrong
                ours[key] = ours[key].unflatten(0, (num_anchors, -1)).roll(1, dims=1).flatten(0, 1)
    return ours


def _translate_picodet(state: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    names = _body_names(_number_of_blocks(state))
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


def _number_of_blocks(state: Mapping[str, Tensor]) -> int:
    """How many bottlenecks the body has; -1 if none is found."""
    return highest(r"(?:backbone\.)?conv(\d+)(?:\.linear_conv\.|_linear_)", dict(state)) - 1


def _body_names(blocks: int) -> dict[str, str]:
    """The names of the stem and the bottlenecks -> ours."""
    names = conv_norm("backbone.conv1", "backbone.stem")
    for number in range(1, blocks + 1):
        theirs, ours = f"backbone.conv{number + 1}", f"backbone.blocks.{number}"
        for layer, part in (("expand_conv", "expand"), ("bottleneck_conv", "depthwise"), ("linear_conv", "project")):
            names |= conv_norm(f"{theirs}.{layer}", f"{ours}.{part}")
        names |= linear(f"{theirs}.mid_se.conv1", f"{ours}.squeeze_excite.reduce")
        names |= linear(f"{theirs}.mid_se.conv2", f"{ours}.squeeze_excite.expand")
    return names


def _static(name: str) -> str:
    """A tensor's name in the static graph."""
    for pattern, replacement in STATIC_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _separable(theirs: str, ours: str) -> dict[str, str]:
    """The names of a depthwise and a pointwise convolution with their norms -> those of our `Separable`."""
    names = {}
    for layer, norm, part in (("dwconv", "bn1", "depthwise"), ("pwconv", "bn2", "project")):
        names |= conv_norm(theirs, f"{ours}.{part}", convolution=layer, norm=norm)
    return names
