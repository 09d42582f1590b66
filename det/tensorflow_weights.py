"""Checkpoints of TensorFlow's object-detection API, in which the authors released SSDLite on V3 and V2, in our names.

Written after that API's code and the configs of ssd_mobilenet_v3_{large,small}_coco_2020_01_14 and of
ssdlite_mobilenet_v2_coco_2018_05_09. The released files themselves could not be opened.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbone.errors import InputError
from backbone.weights import slim

SCOPES = ("FeatureExtractor/MobilenetV3", "FeatureExtractor/MobilenetV2")
SIGNS = {f"{scope}/Conv/weights": scope for scope in SCOPES}
"""The stem, which every such checkpoint has."""
BODIES = {
    480: ("mobilenet_v3_large", "detection", 320),
    960: ("mobilenet_v3_large", "full", 320),
    288: ("mobilenet_v3_small", "detection", 320),
    576: ("mobilenet_v3_small", "full", 320),
    1280: ("mobilenet_v2", "full", 300),
}
"""Network, tail and input size in pixels (the configs') by the channels of C5. The API's V3s have detection tails."""
EXTRA = re.compile(r"(.*/layer_\d+_([12])_Conv2d_([2-5])_\dx\d_(?:s2_)?\d+(_depthwise)?)/")
"""Step and number of an extra map's layer; the numbers 0 and 1 belong to C4 and C5."""
EXTRA_PARTS = {("1", None): "reduce", ("2", "_depthwise"): "depthwise", ("2", None): "project"}
CLASSES, BOXES = "ClassPredictor", "BoxEncodingPredictor"
PREDICTORS = {CLASSES: "class_predictors", BOXES: "box_predictors"}
BOX_ORDER = [1, 0, 3, 2]
"""The positions of our x, y, width, height in the API's y, x, height, width."""
NMS_IOU = 0.6
"""The configs' IoU threshold of NMS."""


def arguments(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The keywords of `det.create` for a checkpoint.

    Raises:
        InputError: the backbone is none of `BODIES`, or there are no predictors.
    """
    sizes = [f"{_scope(state)}/Conv_1/weights", f"BoxPredictor_0/{CLASSES}/biases", f"BoxPredictor_0/{BOXES}/biases"]
    last, classes, boxes = (len(state.get(name, ())) for name in sizes)
    if last not in BODIES or not boxes:
        raise InputError(
            f"{source}: of TensorFlow's object-detection API, but not SSDLite on MobileNetV2, V3-Large or V3-Small of "
            f"width 1 ({last} channels in C5, {boxes} box outputs on the first map); no other is known"
        )
    name, tail, image_size = BODIES[last]
    return {
        "head": "ssdlite",
        "backbone": name,
        "num_classes": classes * 4 // boxes - 1,
        "variant": "paper",
        "tail": tail,
        "padding": "same",
        "image_size": image_size,
    }


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors by our names, without the background's outputs; names without a translation stay.

    The API discards the background's score after the sigmoid, where it does not influence the others.
    """
    layers = {theirs: f"backbone.{ours}" for theirs, ours in slim.body_layers(state, _scope(state)).items()}
    for found in filter(None, map(EXTRA.match, state)):
        layer, step, number, depthwise = found.groups()
        if part := EXTRA_PARTS.get((step, depthwise)):
            layers[layer] = f"head.extras.{int(number) - 2}.{part}"
    maps = {name.split("/")[0].removeprefix("BoxPredictor_") for name in state if name.startswith("BoxPredictor_")}
    for number in maps:
        for theirs, ours in PREDICTORS.items():
            layers[f"BoxPredictor_{number}/{theirs}_depthwise"] = f"head.{ours}.{number}.depthwise"
            layers[f"BoxPredictor_{number}/{theirs}"] = f"head.{ours}.{number}.project"
    ours = slim.renamed(state, layers)
    for number in maps:
        for value in ("weight", "bias"):
            classes, boxes = (f"head.{predictors}.{number}.project.{value}" for predictors in PREDICTORS.values())
            num_anchors, rest = divmod(len(ours.get(boxes, ())), 4)
            if not num_anchors or rest or classes not in ours or len(ours[classes]) % num_anchors:
                continue  # a strict load says what is wrong
            ours[classes] = ours[classes].unflatten(0, (num_anchors, -1))[:, 1:].flatten(0, 1)
            ours[boxes] = ours[boxes].unflatten(0, (num_anchors, 4))[:, BOX_ORDER].flatten(0, 1)
    return ours


def _scope(state: Mapping[str, Tensor]) -> str:
    return next(scope for sign, scope in SIGNS.items() if sign in state)
