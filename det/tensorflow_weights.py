"""Translates checkpoints of TensorFlow's object-detection API, in which the authors released SSDLite on MobileNetV3.

It follows that API's code and the configs of ssd_mobilenet_v3_{large,small}_coco_2020_01_14. The released files
themselves could not be opened.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbone import slim
from backbone.errors import InputError

BODY = "FeatureExtractor/MobilenetV3"
SIGN = f"{BODY}/Conv/weights"
"""The stem, which every such checkpoint has."""
BODIES = {
    480: ("mobilenet_v3_large", "detection"),
    960: ("mobilenet_v3_large", "full"),
    288: ("mobilenet_v3_small", "detection"),
    576: ("mobilenet_v3_small", "full"),
}
"""Network and tail by the channels of C5. The API builds only detection tails."""
EXTRA = re.compile(rf"({BODY}/layer_\d+_([12])_Conv2d_([2-5])_\dx\d_(?:s2_)?\d+(_depthwise)?)/")
"""Step and number of an extra map's layer; numbers 0 and 1 are C4 and C5."""
EXTRA_PARTS = {("1", None): "reduce", ("2", "_depthwise"): "depthwise", ("2", None): "project"}
CLASSES, BOXES = "ClassPredictor", "BoxEncodingPredictor"
PREDICTORS = {CLASSES: "class_predictors", BOXES: "box_predictors"}
BOX_ORDER = [1, 0, 3, 2]
"""Where our x, y, width, height are among the API's y, x, height, width."""
NMS_IOU = 0.6
"""The configs' threshold of suppression."""


def arguments(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The keywords of `det.create` for a checkpoint.

    Raises InputError where it has no such backbone or no predictors.
    """
    last, classes, boxes = (
        len(state.get(name, ()))
        for name in (f"{BODY}/Conv_1/weights", f"BoxPredictor_0/{CLASSES}/biases", f"BoxPredictor_0/{BOXES}/biases")
    )
    if last not in BODIES or not boxes:
        raise InputError(
            f"{source}: of TensorFlow's object-detection API, but not SSDLite on MobileNetV3-Large or Small of width 1 "
            f"({last} channels in C5, {boxes} box outputs on the first map); no other is known"
        )
    name, tail = BODIES[last]
    return {
        "head": "ssdlite",
        "backbone": name,
        "num_classes": classes * 4 // boxes - 1,
        "variant": "paper",
        "tail": tail,
        "padding": "same",
        "image_size": 320,
    }


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors by our names, without the background's column; names without a translation stay.

    That column was taught to be zero (`encode_background_as_zeros`), and the API drops it behind the sigmoid, on which
    the other columns have no influence.
    """
    layers = {theirs: f"backbone.{ours}" for theirs, ours in slim.body_layers(state, BODY).items()}
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
            if boxes not in ours or classes not in ours:
                continue  # a strict load names it
            num_anchors = len(ours[boxes]) // 4
            ours[classes] = ours[classes].unflatten(0, (num_anchors, -1))[:, 1:].flatten(0, 1)
            ours[boxes] = ours[boxes].unflatten(0, (num_anchors, 4))[:, BOX_ORDER].flatten(0, 1)
    return ours
