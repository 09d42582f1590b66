"""Weights for a whole detector: our own files, and torchvision's and TensorFlow's translated at the door; strict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbone.weights.layouts import torchvision_names
from backbone.weights.loading import load_strictly, read_described, read_weights
from backbone.weights.refusals import require_settings, source_name, unknown_layout
from backbone.weights.translation import INCEPTION, Triple, conv_norm, linear
from det import tensorflow_weights
from det.heads.anchors import anchors_per_cell
from det.model import Detector, create
from det.postprocess import NMS_IOU

EXTRA_PARTS = ("reduce", "depthwise", "project")
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Of 1..90, the category ids that no image of COCO has; the published weights have outputs for them."""
NUM_COCO_IDS = 90
PREDICTORS = {"classification_head": "class_predictors", "regression_head": "box_predictors"}


def load_weights(model: Detector, source: str | Path | Mapping[str, Tensor]) -> str:
    """Load a weights file or a state dict and return the layout it had: "taproot", "torchvision" or "tensorflow".

    "torchvision" is `ssdlite320_mobilenet_v3_large`, with the reduced tail (its published weights) or without; the
    model must be of variant "torchvision", with the tail and the number of classes of the weights.

    "tensorflow" is a checkpoint of TensorFlow's object-detection API, its ssd_mobilenet_v3_large or _small or its
    ssdlite_mobilenet_v2: variant "paper" with padding "same", and sigmoid scores. Its 91 outputs for COCO are
    num_classes=90: the background's, which the API drops as well, is left out.

    COCO's weights, with outputs for all ids 1..90, also go into a model of the 80 real categories (num_classes=80, or
    81 with the background), whose labels are then these in the order of their ids: the rows of `UNUSED_IDS` are left
    out. The other logits stay the same. So do sigmoid scores; those of torchvision's softmax grow by 1 / (1 - p), where
    p is what the softmax over 91 gave to the unused, next to nothing for an id that training never saw. Scores of the
    softmax over 91 need num_classes=91 and names for all 90 ids: what `CocoDetection` finds absent, `to_results`
    leaves out.

    Raises InputError, leaving the model as it was: the file cannot be read, the layout is unknown, the model's padding
    is not the weights', or a tensor is missing, left over or of another shape.
    """
    state, description = read_described(source)
    name = source_name(source)
    if "backbone.features.0.0.0.weight" in state:
        layout, padding = "torchvision", "symmetric"
    elif tensorflow_weights.SIGNS.keys() & state.keys():
        layout, padding = "tensorflow", "same"
    elif "backbone.stem.conv.weight" in state:
        layout, padding = "taproot", description.get("model", {}).get("padding")
    else:
        known = "our detectors, torchvision's ssdlite320, and SSDLite of TensorFlow's object-detection API"
        raise unknown_layout(state, source=name, known=known)
    require_settings({"padding": padding}, {"padding": model.backbone.padding}, layout=layout, source=name)
    if layout == "torchvision":
        names = _torchvision_names(model)
        state = {names.get(key, key): value for key, value in state.items()}
    elif layout == "tensorflow":
        state = tensorflow_weights.translate(state)
    if layout != "taproot" and model.num_objects == NUM_COCO_IDS - len(UNUSED_IDS):
        state = _without_unused(model, state)
    load_strictly(model, state, source=name)
    return layout


class Pretrained(NamedTuple):
    """What `from_weights` found in a checkpoint."""

    model: nn.Module
    layout: str
    arguments: dict[str, Any]  # the keywords of `create` that build it
    mean: Triple  # of the inputs' normalisation in the publisher's file, RGB in 0..1
    std: Triple
    score: str  # "softmax" or "sigmoid", as `PostProcess` has it
    nms_iou: float  # the publisher's


def from_weights(source: str | Path | Mapping[str, Tensor]) -> Pretrained:
    """The detector that another library's checkpoint is of, with its weights and all its outputs.

    These are torchvision's ssdlite320, and ssd_mobilenet_v3_large and _small and ssdlite_mobilenet_v2 of TensorFlow's
    object-detection API. The latter's checkpoints do not tell the size of the input, which is taken as in the released
    configs: 320, V2's 300. Nothing here makes up for two things of that API: its resizing keeps the top left pixel in
    its place, so that its inputs lie (s - 1) / 2s of a pixel further right and below than ours where the image is s
    times as large, a quarter of a pixel at 640x640; and it cuts boxes at the image's edges after suppression, not
    before it.

    Raises InputError as `load_weights` does.
    """
    state = read_weights(source)
    if tensorflow_weights.SIGNS.keys() & state.keys():
        arguments = tensorflow_weights.arguments(state, source_name(source))
        score, nms_iou = "sigmoid", tensorflow_weights.NMS_IOU
    else:
        arguments = {"head": "ssdlite", "backbone": "mobilenet_v3_large", "variant": "torchvision"}
        score, nms_iou = "softmax", NMS_IOU
        scores = "head.classification_head.module_list"
        if f"{scores}.0.1.weight" in state:
            arguments |= {
                "num_classes": len(state[f"{scores}.0.1.weight"]) // anchors_per_cell("torchvision")[0],
                "tail": "detection" if len(state[f"{scores}.1.0.0.weight"]) == 480 else "full",
                "image_size": 320,
            }
    model = create(**arguments)
    layout = load_weights(model, source)
    return Pretrained(model, layout, arguments, *INCEPTION, score, nms_iou)


def _torchvision_names(model: Detector) -> dict[str, str]:
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
            names |= conv_norm(f"backbone.extra.{number}.{index}", f"head.extras.{number}.{part}")
    for theirs, ours in PREDICTORS.items():
        for number in range(len(model.head.class_predictors)):
            their_map, our_map = f"head.{theirs}.module_list.{number}", f"head.{ours}.{number}"
            names |= conv_norm(f"{their_map}.0", f"{our_map}.depthwise")
            names |= linear(f"{their_map}.1", f"{our_map}.project")
    return names


def _without_unused(model: Detector, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves the rows of `UNUSED_IDS` out of class predictors that have outputs for all of COCO's ids."""
    state = dict(state)
    ids = range(1 - model.background, NUM_COCO_IDS + 1)  # 0 for the background
    used = [output for output, category_id in enumerate(ids) if category_id not in UNUSED_IDS]
    for number, anchors in enumerate(anchors_per_cell(model.variant)):
        for key in (f"head.class_predictors.{number}.project.{value}" for value in ("weight", "bias")):
            if key in state and len(state[key]) == anchors * len(ids):
                state[key] = state[key].unflatten(0, (anchors, len(ids)))[:, used].flatten(0, 1)
    return state
