"""Translates mmpretrain's names of tensors, and those of the standalone MobileNetV3 of 1e100, d-li14 and Randl."""

import re

from torch import Tensor

from backbone.errors import InputError
from backbone.weights.translation import IMAGENET, Layout, conv_norm, highest, linear, named, plain_conv_norm, renamed

OTHER_HEADS = ("decode_head.", "auxiliary_head.", "neck.", "bbox_head.")
"""Prefixes of what mmseg's and mmdet's models have on top of the same backbones; these tensors are left out."""

MMPRETRAIN_PARTS = {"expand_conv": "expand", "depthwise_conv": "depthwise", "linear_conv": "project"}


def recognise(state: dict[str, Tensor], source: str) -> Layout | None:
    """A state dict of one of these in our names; None for any other.

    Raises:
        InputError: it is one of these, but its network cannot be built here; the message says why.
    """
    if {"layer0.conv.weight", "backbone.layer0.conv.weight"} & state.keys():
        return _mmpretrain_v3(state)
    if {"layer1.0.conv.0.conv.weight", "backbone.layer1.0.conv.0.conv.weight"} & state.keys():
        return _mmpretrain_v2(state)
    if "body.last_conv.conv.weight" in state:
        return _1e100(state)
    if any(re.fullmatch(r"features\.\d+\.conv\.\d\.fc\.\d\.weight", key) for key in state):
        return _dli14(state)
    if "bottlenecks.Bottleneck_0.conv1.weight" in state:
        return _randl(state, source)
    return None


def _mmpretrain_v3(state: dict[str, Tensor]) -> Layout:
    body = _without_other_heads(state)
    count = highest(r"layer(\d+)\.", body)
    names = _conv_bn("layer0", "stem") | _conv_bn(f"layer{count}", "last")
    for number in range(1, count):
        for theirs, ours in MMPRETRAIN_PARTS.items():
            names |= _conv_bn(f"layer{number}.{theirs}", f"blocks.{number}.{ours}")
        names |= linear(f"layer{number}.se.conv1.conv", f"blocks.{number}.squeeze_excite.reduce")
        names |= linear(f"layer{number}.se.conv2.conv", f"blocks.{number}.squeeze_excite.expand")
    names |= linear("head.layers.0.fc", "hidden") | linear("head.layers.1.fc", "output")
    # The narrow networks' weights were converted from timm's and have its norm epsilon.
    full_width = len(body[f"layer{count}.conv.weight"]) in (576, 960)
    # mmseg's backbone pads as TensorFlow does, and dilates from stride 8 on.
    segmenter = any(key.startswith("decode_head.") for key in state)
    name, padding = ("mmseg", "same") if segmenter else ("mmpretrain", "symmetric")
    return Layout(name, renamed(body, names), 1e-3 if full_width else 1e-5, padding, *IMAGENET)


def _mmpretrain_v2(state: dict[str, Tensor]) -> Layout:
    body = _without_other_heads(state)
    names = _conv_bn("conv1", "stem") | _conv_bn("conv2", "last") | linear("head.fc", "output")
    inner = {tuple(map(int, found.groups())) for key in body if (found := re.match(r"layer(\d+)\.(\d+)\.", key))}
    for number, (stage, index) in enumerate(sorted(inner), start=1):
        theirs = f"layer{stage}.{index}.conv"
        expanded = f"{theirs}.2.conv.weight" in body
        for place, part in enumerate(["expand"] * expanded + ["depthwise", "project"]):
            names |= _conv_bn(f"{theirs}.{place}", f"blocks.{number}.{part}")
    return Layout("mmpretrain", renamed(body, names), 1e-5, "symmetric", *IMAGENET)


def _without_other_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): value for key, value in state.items() if not key.startswith(OTHER_HEADS)}


def _1e100(state: dict[str, Tensor]) -> Layout:
    """1e100's _segmentation networks have the tensors of its _detection networks: both have the tail "detection".

    The Large segmentation network is that tail at `output_stride=16` with `dilate_strided_block`; the Small one also
    has a residual connection in block 9, which no architecture here has.
    """
    names = _conv_bn("input_layer", "stem") | _conv_bn("body.last_conv", "last")
    for number in range(1, 2 + highest(r"body\.bottleneck(\d+)\.", state)):
        theirs, ours = f"body.bottleneck{number - 1}", f"blocks.{number}"
        for part, mine in (("expand", "expand"), ("dw_conv", "depthwise"), ("contract", "project")):
            names |= conv_norm(f"{theirs}.{part}", f"{ours}.{mine}")
        for part in ("reduce", "expand"):
            names |= linear(f"{theirs}.se.{part}", f"{ours}.squeeze_excite.{part}")
    names |= linear("classifier.2", "hidden") | linear("classifier.5", "output")
    return Layout("1e100", renamed(state, names), 1e-5, "symmetric", *IMAGENET)


def _dli14(state: dict[str, Tensor]) -> Layout:
    names = conv_norm("features.0", "stem") | conv_norm("conv", "last")
    for number in range(1, 1 + highest(r"features\.(\d+)\.", state)):
        theirs, ours = f"features.{number}.conv", f"blocks.{number}"
        if f"{theirs}.7.weight" in state:
            parts, squeeze = {0: "expand", 3: "depthwise", 7: "project"}, 5
        else:
            parts, squeeze = {0: "depthwise", 4: "project"}, 3
        for first, part in parts.items():
            names |= plain_conv_norm(theirs, first, f"{ours}.{part}")
        names |= linear(f"{theirs}.{squeeze}.fc.0", f"{ours}.squeeze_excite.reduce")
        names |= linear(f"{theirs}.{squeeze}.fc.2", f"{ours}.squeeze_excite.expand")
    names |= linear("classifier.0", "hidden") | linear("classifier.3", "output")
    return Layout(
        "d-li14",
        _with_squeeze_as_convolutions(renamed(state, names)),
        1e-5,
        "symmetric",
        *IMAGENET,
        se_before_activation=True,
    )


def _randl(state: dict[str, Tensor], source: str) -> Layout:
    if "last_block.se.linear1.weight" in state:
        raise InputError(
            f"{source}: Randl's MobileNetV3-Small, which no architecture here is: it follows the misprints of the "
            "paper's first version, with squeeze-and-excite after the last convolution; use torchvision's or timm's"
        )
    state = {key: value for key, value in state.items() if not re.search(r"\.db\d\.", key)}  # DropBlock's counters
    names = named("conv1", "stem.conv") | named("bn1", "stem.norm")
    for number in range(1, 2 + highest(r"bottlenecks\.Bottleneck_(\d+)\.", state)):
        theirs, ours = f"bottlenecks.Bottleneck_{number - 1}", f"blocks.{number}"
        for index, part in enumerate(("expand", "depthwise", "project"), start=1):
            names |= named(f"{theirs}.conv{index}", f"{ours}.{part}.conv")
            names |= named(f"{theirs}.bn{index}", f"{ours}.{part}.norm")
        names |= linear(f"{theirs}.se.linear1", f"{ours}.squeeze_excite.reduce")
        names |= linear(f"{theirs}.se.linear2", f"{ours}.squeeze_excite.expand")
    names |= named("last_block.conv1", "last.conv") | named("last_block.bn1", "last.norm")
    names |= linear("last_block.conv2", "hidden") | linear("last_block.fc", "output")
    translated = _with_squeeze_as_convolutions(renamed(state, names))
    if "hidden.weight" in translated:
        translated["hidden.weight"] = translated["hidden.weight"].flatten(1)  # a 1x1 convolution of one pixel
    return Layout("Randl", translated, 1e-5, "symmetric", *IMAGENET)


def _with_squeeze_as_convolutions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turns linear layers in squeeze-and-excite into the 1x1 convolutions that they are equal to."""
    return {
        key: value[:, :, None, None] if ".squeeze_excite." in key and value.ndim == 2 else value
        for key, value in state.items()
    }


def _conv_bn(theirs: str, ours: str) -> dict[str, str]:
    return named(f"{theirs}.conv", f"{ours}.conv") | named(f"{theirs}.bn", f"{ours}.norm")
