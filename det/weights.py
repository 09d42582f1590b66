"""Weights for a whole detector: our own files, and torchvision's translated at the door; always strict."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from backbone.errors import InputError
from backbone.weights import NORM, load_strictly, read_weights, torchvision_names
from det.model import SSDLite

EXTRA_PARTS = ("reduce", "depthwise", "project")
PREDICTORS = {"classification_head": "class_predictors", "regression_head": "box_predictors"}


def load_weights(model: SSDLite, source: str | Path | Mapping[str, Tensor]) -> str:
    """Load a .safetensors, .pt or .pth file, or a state dict, and return the layout it had: "taproot" or "torchvision".

    "torchvision" is `ssdlite320_mobilenet_v3_large`, with the reduced tail (its published weights) or without; the
    model must be of variant "torchvision", with the tail and the number of classes of the weights.

    Raises InputError, leaving the model as it was: the file cannot be read, the layout is unknown, or a tensor is
    missing, left over or of another shape.
    """
    state = read_weights(source)
    name = "state dict" if isinstance(source, Mapping) else str(source)
    layout = "taproot"
    if "backbone.features.0.0.0.weight" in state:
        layout = "torchvision"
        names = _torchvision_names(model)
        state = {names.get(key, key): value for key, value in state.items()}
    elif "backbone.stem.conv.weight" not in state:
        first = next(iter(state), None)
        raise InputError(
            f"{name}: unknown layout (first name {first!r}); known: our detectors and torchvision's ssdlite320"
        )
    load_strictly(model, state, source=name)
    return layout


def _torchvision_names(model: SSDLite) -> dict[str, str]:
    """torchvision's names of SSDLite -> ours. It cuts the backbone in two behind the expansion of C4's block."""
    c4_block = int(model.taps[0].split(".")[0])
    names = {}
    for theirs, ours in torchvision_names(model.backbone).items():
        _, block, rest = theirs.split(".", 2)
        number = int(block)
        if number < c4_block:
            key = f"0.{number}.{rest}"
        elif number > c4_block:
            key = f"1.{number - c4_block}.{rest}"
        elif rest.startswith("block.0."):
            key = f"0.{number}.{rest.removeprefix('block.0.')}"
        else:
            key = f"1.0.{rest.removeprefix('block.')}"
        names[f"backbone.features.{key}"] = f"backbone.{ours}"
    for number in range(len(model.head.extras)):
        for index, part in enumerate(EXTRA_PARTS):
            names |= _conv_norm(f"backbone.extra.{number}.{index}", f"head.extras.{number}.{part}")
    for theirs, ours in PREDICTORS.items():
        for number in range(len(model.head.class_predictors)):
            their_map, our_map = f"head.{theirs}.module_list.{number}", f"head.{ours}.{number}"
            names |= _conv_norm(f"{their_map}.0", f"{our_map}.depthwise")
            names |= {f"{their_map}.1.{value}": f"{our_map}.project.{value}" for value in ("weight", "bias")}
    return names


def _conv_norm(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.0.weight": f"{ours}.conv.weight"} | {f"{theirs}.1.{key}": f"{ours}.norm.{key}" for key in NORM}
