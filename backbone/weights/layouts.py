"""Recognises a checkpoint's layout by its tensors' names; translates timm's and torchvision's names to ours."""

import re

from torch import Tensor

from backbone.errors import InputError
from backbone.network import Network
from backbone.weights import efficientnet_lite, paddle, ports, slim
from backbone.weights import keras as keras_weights
from backbone.weights.refusals import unknown_layout
from backbone.weights.translation import IMAGENET, Layout, conv_norm, highest, linear, named, plain_conv_norm, renamed

# timm's layers -> ours, for each of its kinds of blocks
TIMM_PARTS = {
    "separable": {
        "conv_dw": "depthwise.conv",
        "bn1": "depthwise.norm",
        "conv_pw": "project.conv",
        "bn2": "project.norm",
    },
    "inverted": {
        "conv_pw": "expand.conv",
        "bn1": "expand.norm",
        "conv_dw": "depthwise.conv",
        "bn2": "depthwise.norm",
        "conv_pwl": "project.conv",
        "bn3": "project.norm",
    },
    "fused": {"conv_exp": "expand.conv", "bn1": "expand.norm", "conv_pwl": "project.conv", "bn2": "project.norm"},
    "universal": {
        f"{theirs}.{layer}": f"{ours}.{mine}"
        for theirs, ours in (
            ("dw_start", "start"),
            ("pw_exp", "expand"),
            ("dw_mid", "depthwise"),
            ("pw_proj", "project"),
        )
        for layer, mine in (("conv", "conv"), ("bn", "norm"))
    },
}
TIMM_UNSUPPORTED = {
    "attn": "attention (a hybrid MobileNetV4)",
    "layer_scale": "scaled branches (a hybrid MobileNetV4)",
    "dw_end": "a depthwise convolution after the projection",
    "conv_s2d": "a stem that folds pixels into channels",
}
"""Parts of timm's networks that no architecture here has: how their tensors are named, and what they are."""
KNOWN = (
    "ours and those of torchvision, timm, mmpretrain, Keras, TF-slim, efficientnet_lite_pytorch, PaddleClas, 1e100, "
    "d-li14 and Randl"
)
TIMM_SQUEEZE = {"se.conv_reduce": "squeeze_excite.reduce", "se.conv_expand": "squeeze_excite.expand"}


def recognise(state: dict[str, Tensor], source: str) -> Layout:
    """A classifier's state dict in our names; the layout is recognised by the tensors' names.

    Arguments:
        source: the file's name, for errors.

    Raises:
        InputError: the layout is unknown, or its network cannot be built here; the message says why.
    """
    if "stem.conv.weight" in state or "backbone.stem.conv.weight" in state:
        ours = {key.removeprefix("backbone."): value for key, value in state.items()}
        return Layout("taproot", ours, None, None, *IMAGENET, se_before_activation=None)
    if "conv_stem.weight" in state:
        return _timm(state, source)
    if any(key.startswith("keras.") for key in state):
        return keras_weights.translate(state, source)
    for publisher in (efficientnet_lite, paddle, ports, slim):
        if (found := publisher.recognise(state, source)) is not None:
            return found
    if any(".bottleneck_0_0." in key for key in state):
        raise InputError(
            f"{source}: jungin500's network is not a MobileNetV3 (no activation after its depthwise convolutions, a "
            "convolution on every skip); use torchvision's or timm's weights"
        )
    if "features.1.conv.0.0.weight" in state:
        return Layout("torchvision", renamed(state, _torchvision_v2(state)), 1e-5, "symmetric", *IMAGENET)
    if "features.0.0.weight" in state and any(".block." in key for key in state):
        return Layout("torchvision", renamed(state, _torchvision_v3(state)), 1e-3, "symmetric", *IMAGENET)
    if "layers.0.weight" in state and any(re.match(r"layers\.8\.\d\.layers\.", key) for key in state):
        return Layout("torchvision", renamed(state, _torchvision_mnasnet(state)), 1e-5, "symmetric", *IMAGENET)
    raise unknown_layout(state, source=source, known=KNOWN)


def torchvision_names(network: Network) -> dict[str, str]:
    """torchvision's names of MobileNetV3's body (`features.…`) -> ours, for all layers, built or not."""
    names = conv_norm("features.0", "stem")
    blocks = network.plan.blocks
    for number, block in enumerate(blocks, start=1):
        names |= _torchvision_v3_block(number, bool(block.expand_kernel), bool(block.squeezed))
    return names | conv_norm(f"features.{len(blocks) + 1}", "last")


def _torchvision_v3(state: dict[str, Tensor]) -> dict[str, str]:
    count = highest(r"features\.(\d+)\.", state)
    names = conv_norm("features.0", "stem") | conv_norm(f"features.{count}", "last")
    for number in range(1, count):
        parts = 1 + highest(rf"features\.{number}\.block\.(\d+)\.", state)
        squeezed = any(re.match(rf"features\.{number}\.block\.\d+\.fc1\.", key) for key in state)
        names |= _torchvision_v3_block(number, expanded=parts - squeezed == 3, squeezed=squeezed)
    return names | linear("classifier.0", "hidden") | linear("classifier.3", "output")


def _torchvision_v3_block(number: int, expanded: bool, squeezed: bool) -> dict[str, str]:
    theirs, ours = f"features.{number}.block", f"blocks.{number}"
    parts = ["expand"] * expanded + ["depthwise"] + ["squeeze_excite"] * squeezed + ["project"]
    names = {}
    for index, part in enumerate(parts):
        if part == "squeeze_excite":
            names |= linear(f"{theirs}.{index}.fc1", f"{ours}.{part}.reduce")
            names |= linear(f"{theirs}.{index}.fc2", f"{ours}.{part}.expand")
        else:
            names |= conv_norm(f"{theirs}.{index}", f"{ours}.{part}")
    return names


def _torchvision_v2(state: dict[str, Tensor]) -> dict[str, str]:
    count = highest(r"features\.(\d+)\.", state)
    names = conv_norm("features.0", "stem") | conv_norm(f"features.{count}", "last")
    for number in range(1, count):
        theirs, ours = f"features.{number}.conv", f"blocks.{number}"
        parts = ["depthwise"] if highest(rf"features\.{number}\.conv\.(\d+)\.", state) == 2 else ["expand", "depthwise"]
        for index, part in enumerate(parts):
            names |= conv_norm(f"{theirs}.{index}", f"{ours}.{part}")
        names |= plain_conv_norm(theirs, len(parts), f"{ours}.project")
    return names | linear("classifier.1", "output")


def _torchvision_mnasnet(state: dict[str, Tensor]) -> dict[str, str]:
    names = plain_conv_norm("layers", 0, "stem")
    names |= plain_conv_norm("layers", 3, "blocks.1.depthwise") | plain_conv_norm("layers", 6, "blocks.1.project")
    inner = {tuple(map(int, found.groups())) for key in state if (found := re.match(r"layers\.(\d+)\.(\d+)\.", key))}
    for number, (stage, index) in enumerate(sorted(inner), start=2):
        for first, part in ((0, "expand"), (3, "depthwise"), (6, "project")):
            names |= plain_conv_norm(f"layers.{stage}.{index}.layers", first, f"blocks.{number}.{part}")
    return names | plain_conv_norm("layers", 14, "last") | linear("classifier.1", "output")


def _timm(state: dict[str, Tensor], source: str) -> Layout:
    """timm's stages become one sequence of blocks; pairs of plain convolutions become one fused block."""
    unsupported = [key for key in state if re.search(rf"\.({'|'.join(TIMM_UNSUPPORTED)})\.", key)]
    if unsupported:
        part = next(words for sign, words in TIMM_UNSUPPORTED.items() if f".{sign}." in unsupported[0])
        raise InputError(
            f"{source}: timm's network has {part} ({unsupported[0]}), which no architecture here has; "
            "convolutional MobileNetV4 is mobilenetv4_conv_small, _medium and _large"
        )
    grouped: dict[tuple[int, int], set[str]] = {}
    for key in state:
        if found := re.match(r"blocks\.(\d+)\.(\d+)\.(.+)", key):
            grouped.setdefault((int(found[1]), int(found[2])), set()).add(found[3])

    names = named("conv_stem", "stem.conv") | named("bn1", "stem.norm") | linear("classifier", "output")
    order = sorted(grouped)
    number, activated = 0, False  # activated: the last plain convolution was the first of a fused block
    for place in order:
        keys, theirs = grouped[place], f"blocks.{place[0]}.{place[1]}"
        if "conv.weight" in keys:
            if place == order[-1] and not activated:
                ours = "last"
            else:
                number += not activated
                ours = f"blocks.{number}.{'project' if activated else 'expand'}"
                activated = not activated
            names |= named(f"{theirs}.conv", f"{ours}.conv") | named(f"{theirs}.bn1", f"{ours}.norm")
            continue
        number += 1
        for layer, ours in (TIMM_PARTS[_timm_kind(keys)] | TIMM_SQUEEZE).items():
            names |= named(f"{theirs}.{layer}", f"blocks.{number}.{ours}")

    if any(key.startswith("bn2.") for key in state):
        names |= named("conv_head", "last.conv") | named("bn2", "last.norm")
    else:
        names |= named("conv_head", "hidden") | named("norm_head", "hidden_norm")
    translated = renamed(state, names)
    if "hidden.weight" in translated:
        translated["hidden.weight"] = translated["hidden.weight"].flatten(1)  # a 1x1 convolution of one pixel
    return Layout("timm", translated, 1e-5, None, *IMAGENET)


def _timm_kind(keys: set[str]) -> str:
    for sign, kind in (("pw_exp.", "universal"), ("conv_exp.", "fused"), ("conv_pwl.", "inverted")):
        if any(key.startswith(sign) for key in keys):
            return kind
    return "separable"
