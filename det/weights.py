"""Weights for a whole detector: our own files, and torchvision's translated at the door; always strict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbone.errors import InputError
from backbone.translation import INCEPTION, Triple
from backbone.weights import NORM, load_strictly, read_weights, torchvision_names
from det.anchors import anchors_per_cell
from det.model import SSDLite, create

EXTRA_PARTS = ("reduce", "depthwise", "project")
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Of 1..90, the category ids that no picture of COCO has; torchvision's 91 outputs have columns for them."""
NUM_COCO_OUTPUTS = 91
PREDICTORS = {"classification_head": "class_predictors", "regression_head": "box_predictors"}


def load_weights(model: SSDLite, source: str | Path | Mapping[str, Tensor]) -> str:
    """Load a .safetensors, .pt or .pth file, or a state dict, and return the layout it had: "taproot" or "torchvision".

    "torchvision" is `ssdlite320_mobilenet_v3_large`, with the reduced tail (its published weights) or without; the
    model must be of variant "torchvision", with the tail and the number of classes of the weights.

    COCO's weights with their 91 outputs (background and ids 1..90) also go into a model with num_classes=81, whose
    labels are then the 80 real categories in the order of their ids: the rows of `UNUSED_IDS` are left out. The other
    logits, and so the ranking of an anchor's classes, stay the same; scores grow by 1 / (1 - p), where p is what the
    softmax over 91 gave to the unused, next to nothing for an id that training never saw. Scores of the softmax over 91
    need num_classes=91 and names for all 90 ids: what `CocoDetection` finds absent, `to_results` leaves out.

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
        if model.variant == "torchvision" and model.num_objects + 1 == NUM_COCO_OUTPUTS - len(UNUSED_IDS):
            state = _without_unused(model, state)
    elif "backbone.stem.conv.weight" not in state:
        first = next(iter(state), None)
        raise InputError(
            f"{name}: unknown layout (first name {first!r}); known: our detectors and torchvision's ssdlite320"
        )
    load_strictly(model, state, source=name)
    return layout


class Pretrained(NamedTuple):
    """What `from_weights` found in a checkpoint."""

    model: nn.Module
    layout: str
    arguments: dict[str, Any]  # the keywords of `create` that build it
    mean: Triple  # of the inputs' normalisation in the publisher's file, RGB in 0..1
    std: Triple


def from_weights(source: str | Path | Mapping[str, Tensor]) -> Pretrained:
    """The detector that another library's checkpoint is of, with its weights: torchvision's ssdlite320.

    Raises InputError as `load_weights` does.
    """
    state = read_weights(source)
    arguments: dict[str, Any] = {"head": "ssdlite", "backbone": "mobilenet_v3_large", "variant": "torchvision"}
    scores = "head.classification_head.module_list"
    if f"{scores}.0.1.weight" in state:
        arguments |= {
            "num_classes": len(state[f"{scores}.0.1.weight"]) // anchors_per_cell("torchvision")[0],
            "tail": "detection" if len(state[f"{scores}.1.0.0.weight"]) == 480 else "full",
            "image_size": 320,
        }
    model = create(**arguments)
    return Pretrained(model, load_weights(model, source), arguments, *INCEPTION)


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


def _without_unused(model: SSDLite, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves the rows of `UNUSED_IDS` out of class predictors with COCO's 91 outputs per anchor."""
    state = dict(state)
    used = [output for output in range(NUM_COCO_OUTPUTS) if output not in UNUSED_IDS]
    for number, anchors in enumerate(anchors_per_cell(model.variant)):
        for key in (f"head.class_predictors.{number}.project.{value}" for value in ("weight", "bias")):
            if key in state and len(state[key]) == anchors * NUM_COCO_OUTPUTS:
                state[key] = state[key].unflatten(0, (anchors, NUM_COCO_OUTPUTS))[:, used].flatten(0, 1)
    return state


def _conv_norm(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.0.weight": f"{ours}.conv.weight"} | {f"{theirs}.1.{key}": f"{ours}.norm.{key}" for key in NORM}
