"""Translates other libraries' names of tensors to ours: timm's, and torchvision's MobileNetV2, V3 and MNASNet."""

import re
from typing import NamedTuple

from torch import Tensor

from backbone.errors import InputError
from backbone.network import Network

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Layout(NamedTuple):
    """A published checkpoint in our names, without the prefix "backbone.", and what it presumes."""

    name: str
    state: dict[str, Tensor]
    norm_eps: float | None  # None: as the model's
    padding: str | None  # None: the weights do not tell
    mean: Triple  # of the usual published file, RGB in 0..1; retrainings differ
    std: Triple


# The layers of timm's kinds of blocks -> ours.
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
TIMM_SQUEEZE = {"se.conv_reduce": "squeeze_excite.reduce", "se.conv_expand": "squeeze_excite.expand"}


def recognise(state: dict[str, Tensor], source: str) -> Layout:
    """The layout of a classifier's state dict, by its names.

    Raises:
        InputError: it is unknown, or known and cannot be reproduced; the message says why.
    """
    if "stem.conv.weight" in state or "backbone.stem.conv.weight" in state:
        ours = {key.removeprefix("backbone."): value for key, value in state.items()}
        return Layout("taproot", ours, None, None, *IMAGENET)
    if "conv_stem.weight" in state:
        return _timm(state, source)
    if any(re.fullmatch(r"features\.\d+\.conv\.\d\.fc\.\d\.weight", key) for key in state):
        raise InputError(
            f"{source}: d-li14's MobileNetV3, which cannot be reproduced: it squeezes before the activation in some "
            "blocks and after it in others; use torchvision's or timm's weights"
        )
    if any(".bottleneck_0_0." in key for key in state):
        raise InputError(
            f"{source}: jungin500's network is not a MobileNetV3 (no activation behind its depthwise convolutions, a "
            "convolution on every skip); use torchvision's or timm's weights"
        )
    if "features.1.conv.0.0.weight" in state:
        return Layout("torchvision", _renamed(state, _torchvision_v2(state)), 1e-5, "symmetric", *IMAGENET)
    if "features.0.0.weight" in state and any(".block." in key for key in state):
        return Layout("torchvision", _renamed(state, _torchvision_v3(state)), 1e-3, "symmetric", *IMAGENET)
    if "layers.0.weight" in state and any(re.match(r"layers\.8\.\d\.layers\.", key) for key in state):
        return Layout("torchvision", _renamed(state, _torchvision_mnasnet(state)), 1e-5, "symmetric", *IMAGENET)
    first = next(iter(state), None)
    raise InputError(f"{source}: unknown layout (first name {first!r}); known: torchvision's, timm's and ours")


def torchvision_names(network: Network) -> dict[str, str]:
    """torchvision's names of MobileNetV3's body (`features.…`) -> ours, for the whole architecture, built or not."""
    names = _conv_norm("features.0", "stem")
    blocks = network.plan.blocks
    for number, block in enumerate(blocks, start=1):
        names |= _torchvision_v3_block(number, bool(block.expand_kernel), bool(block.squeezed))
    return names | _conv_norm(f"features.{len(blocks) + 1}", "last")


def _torchvision_v3(state: dict[str, Tensor]) -> dict[str, str]:
    count = _highest(r"features\.(\d+)\.", state)
    names = _conv_norm("features.0", "stem") | _conv_norm(f"features.{count}", "last")
    for number in range(1, count):
        parts = 1 + _highest(rf"features\.{number}\.block\.(\d+)\.", state)
        squeezed = any(re.match(rf"features\.{number}\.block\.\d+\.fc1\.", key) for key in state)
        names |= _torchvision_v3_block(number, expanded=parts - squeezed == 3, squeezed=squeezed)
    return names | _linear("classifier.0", "hidden") | _linear("classifier.3", "output")


def _torchvision_v3_block(number: int, expanded: bool, squeezed: bool) -> dict[str, str]:
    theirs, ours = f"features.{number}.block", f"blocks.{number}"
    parts = ["expand"] * expanded + ["depthwise"] + ["squeeze_excite"] * squeezed + ["project"]
    names = {}
    for index, part in enumerate(parts):
        if part == "squeeze_excite":
            names |= _linear(f"{theirs}.{index}.fc1", f"{ours}.{part}.reduce")
            names |= _linear(f"{theirs}.{index}.fc2", f"{ours}.{part}.expand")
        else:
            names |= _conv_norm(f"{theirs}.{index}", f"{ours}.{part}")
    return names


def _torchvision_v2(state: dict[str, Tensor]) -> dict[str, str]:
    count = _highest(r"features\.(\d+)\.", state)
    names = _conv_norm("features.0", "stem") | _conv_norm(f"features.{count}", "last")
    for number in range(1, count):
        theirs, ours = f"features.{number}.conv", f"blocks.{number}"
        parts = (
            ["depthwise"] if _highest(rf"features\.{number}\.conv\.(\d+)\.", state) == 2 else ["expand", "depthwise"]
        )
        for index, part in enumerate(parts):
            names |= _conv_norm(f"{theirs}.{index}", f"{ours}.{part}")
        names |= _plain_conv_norm(theirs, len(parts), f"{ours}.project")
    return names | _linear("classifier.1", "output")


def _torchvision_mnasnet(state: dict[str, Tensor]) -> dict[str, str]:
    names = _plain_conv_norm("layers", 0, "stem")
    names |= _plain_conv_norm("layers", 3, "blocks.1.depthwise") | _plain_conv_norm("layers", 6, "blocks.1.project")
    inner = {tuple(map(int, found.groups())) for key in state if (found := re.match(r"layers\.(\d+)\.(\d+)\.", key))}
    for number, (stage, index) in enumerate(sorted(inner), start=2):
        for first, part in ((0, "expand"), (3, "depthwise"), (6, "project")):
            names |= _plain_conv_norm(f"layers.{stage}.{index}.layers", first, f"blocks.{number}.{part}")
    return names | _plain_conv_norm("layers", 14, "last") | _linear("classifier.1", "output")


def _timm(state: dict[str, Tensor], source: str) -> Layout:
    """timm's stages of blocks become one row of blocks; pairs of plain convolutions become one fused block."""
    unlike = [key for key in state if re.search(r"\.(attn|dw_end|layer_scale|conv_s2d|aa)\.", key)]
    if unlike:
        raise InputError(f"{source}: timm's network has parts that no architecture here has ({unlike[0]})")
    grouped: dict[tuple[int, int], set[str]] = {}
    for key in state:
        if found := re.match(r"blocks\.(\d+)\.(\d+)\.(.+)", key):
            grouped.setdefault((int(found[1]), int(found[2])), set()).add(found[3])

    names = _named("conv_stem", "stem.conv") | _named("bn1", "stem.norm") | _linear("classifier", "output")
    order = sorted(grouped)
    number, activated = 0, False  # whether the last plain convolution opened a fused block
    for place in order:
        keys, theirs = grouped[place], f"blocks.{place[0]}.{place[1]}"
        if "conv.weight" in keys:
            if place == order[-1]:
                ours = "last"
            else:
                number += not activated
                ours = f"blocks.{number}.{'project' if activated else 'expand'}"
                activated = not activated
            names |= _named(f"{theirs}.conv", f"{ours}.conv") | _named(f"{theirs}.bn1", f"{ours}.norm")
            continue
        number += 1
        for layer, ours in (TIMM_PARTS[_timm_kind(keys)] | TIMM_SQUEEZE).items():
            names |= _named(f"{theirs}.{layer}", f"blocks.{number}.{ours}")

    if any(key.startswith("bn2.") for key in state):
        names |= _named("conv_head", "last.conv") | _named("bn2", "last.norm")
    else:
        names |= _named("conv_head", "hidden") | _named("norm_head", "hidden_norm")
    translated = _renamed(state, names)
    if "hidden.weight" in translated:
        translated["hidden.weight"] = translated["hidden.weight"].flatten(1)  # a 1x1 convolution of one pixel
    return Layout("timm", translated, 1e-5, None, *IMAGENET)


def _timm_kind(keys: set[str]) -> str:
    for sign, kind in (("pw_exp.", "universal"), ("conv_exp.", "fused"), ("conv_pwl.", "inverted")):
        if any(key.startswith(sign) for key in keys):
            return kind
    return "separable"


def _renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Names that have no translation stay; a strict load then reports them."""
    return {names.get(key, key): value for key, value in state.items()}


def _highest(pattern: str, state: dict[str, Tensor]) -> int:
    """The highest number that a name has at the pattern's group; 0 if none."""
    return max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=0)


def _conv_norm(theirs: str, ours: str) -> dict[str, str]:
    return _plain_conv_norm(theirs, 0, ours)


def _plain_conv_norm(theirs: str, first: int, ours: str) -> dict[str, str]:
    """A convolution at `theirs.first` and its norm behind it."""
    return _named(f"{theirs}.{first}", f"{ours}.conv") | _named(f"{theirs}.{first + 1}", f"{ours}.norm")


def _linear(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{value}": f"{ours}.{value}" for value in ("weight", "bias")}


def _named(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{value}": f"{ours}.{value}" for value in NORM}
