"""Weights of whole detectors: ours, SSDLite of torchvision, TensorFlow and Paddle, PicoDet; loaded strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from backbone.errors import InputError
from backbone.weights.layouts import torchvision_names
from backbone.weights.loading import load_strictly, read_described, read_weights
from backbone.weights.refusals import require_settings, source_name, unknown_layout
from backbone.weights.translation import IMAGENET, INCEPTION, Triple, conv_norm, linear
from det import paddle_weights, tensorflow_weights
from det.heads import Head
from det.heads.anchors import anchors_per_cell
from det.heads.pico import PicoHead
from det.heads.ssdlite import SSDLiteHead
from det.model import Detector, create
from det.postprocess import NMS_IOU

EXTRA_PARTS = ("reduce", "depthwise", "project")
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""The category ids in 1..90 that no annotation of COCO has; the published weights have outputs for them too."""
NUM_COCO_IDS = 90
ONE_TO_ONE = "head.one_to_one."
"""How the names of one-to-one predictors begin."""
PREDICTORS = {"classification_head": "class_predictors", "regression_head": "box_predictors"}


def load_weights(model: Detector, source: str | Path | Mapping[str, Tensor], *, as_start: bool = False) -> str:
    """Loads a checkpoint, recognised by its tensors' names, and returns its layout.

    "torchvision" is `ssdlite320_mobilenet_v3_large`, with the reduced tail (its published weights) or without; the
    model must be of variant "torchvision", with the tail and the number of classes of the weights.

    "tensorflow" is a checkpoint of TensorFlow's object-detection API, its ssd_mobilenet_v3_large or _small or its
    ssdlite_mobilenet_v2: variant "paper" with padding "same", and sigmoid scores. Its 91 outputs for COCO are
    num_classes=90: the background's output, which the API discards too, is dropped.

    "paddle" is PaddleDetection's PicoDet on MobileNetV3-Large: head "pico128", backbone "mobilenet_v3_large_randl"; or
    its SSDLite on MobileNetV3-Large or -Small: variant "paddle", and that backbone or "mobilenet_v3_small_paddle".

    COCO's weights, with outputs for all ids 1..90, also fit a model of the 80 real categories (num_classes=80, or 81
    with the background), whose labels are these categories in the order of their ids: the outputs for `UNUSED_IDS` are
    dropped. The other logits stay the same, and so do sigmoid scores. Scores of torchvision's softmax grow by the
    factor 1 / (1 - p), where p is the probability that the softmax over 91 gave to the unused ids, next to nothing as
    training never saw them. The exact softmax over 91 needs num_classes=91 and names for all 90 ids; `to_results` drops
    detections of the ids that the annotation file does not have.

    Arguments:
        model: is left as it was where the weights do not fit.
        source: a weights file, or a state dict.
        as_start: of a training: one-to-one predictors that the file lacks start as copies of the others, and those that
            the model lacks are left out.

    Returns:
        "taproot", "torchvision", "tensorflow" or "paddle".

    Raises:
        InputError: the file cannot be read, the layout is unknown, the weights need another padding or head than the
            model has, or a tensor is missing, left over or of another shape.
    """
    state, description = read_described(source)
    name = source_name(source)
    if "backbone.features.0.0.0.weight" in state:
        layout, padding = "torchvision", "symmetric"
    elif tensorflow_weights.SIGNS.keys() & state.keys():
        layout, padding = "tensorflow", "same"
    elif any(sign in state for sign in paddle_weights.SIGNS):
        layout, padding = "paddle", "symmetric"
    elif "backbone.stem.conv.weight" in state:
        layout, padding = "taproot", description.get("model", {}).get("padding")
    else:
        known = (
            "our detectors, torchvision's ssdlite320, SSDLite of TensorFlow's object-detection API, and "
            "PaddleDetection's SSDLite and PicoDet"
        )
        raise unknown_layout(state, source=name, known=known)
    require_settings({"padding": padding}, {"padding": model.backbone.padding}, layout=layout, source=name)
    if layout == "paddle":
        kind = paddle_weights.kind(state)
        if kind == "picodet" and not isinstance(model.head, PicoHead):
            raise InputError(f"{name}: PicoDet's weights need head='pico128', the model has another; use from_weights")
        if kind == "ssdlite":
            _require_ssdlite(model.head, layout, name)
            require_settings({"variant": "paddle"}, {"variant": model.variant}, layout=layout, source=name)
        state = paddle_weights.translate(state, model.backbone.stem.norm.eps)
    elif layout != "taproot":
        head = _require_ssdlite(model.head, layout, name)
        if layout == "torchvision":
            names = _torchvision_names(model, head)
            state = {names.get(key, key): value for key, value in state.items()}
        else:
            state = tensorflow_weights.translate(state)
        if model.num_objects == NUM_COCO_IDS - len(UNUSED_IDS):
            state = _without_unused(state, head.variant, background=model.background)
    if as_start:
        state = _with_one_to_one(state) if model.one_to_one else _without_one_to_one(state)
    load_strictly(model, state, source=name)
    return layout


class Pretrained(NamedTuple):
    """What `from_weights` found in a checkpoint."""

    model: Detector
    layout: str
    arguments: dict[str, Any]  # the keywords of `create` that build the model
    mean: Triple  # the input normalisation of the published file, for RGB in 0..1
    std: Triple
    score: str  # "softmax" or "sigmoid": the `kind` of `PostProcess`
    nms_iou: float  # the publisher's IoU threshold of NMS


def from_weights(source: str | Path | Mapping[str, Tensor]) -> Pretrained:
    """Builds the detector of another library's checkpoint, with all its outputs, and loads it.

    Known are torchvision's ssdlite320, ssd_mobilenet_v3_large and _small and ssdlite_mobilenet_v2 of TensorFlow's
    object-detection API, PaddleDetection's SSDLite on MobileNetV3-Large and -Small, and its PicoDet on
    MobileNetV3-Large, whose images were resized bicubically.
    TensorFlow's checkpoints do not contain the input size, which is taken from the released configs: 320, for V2 300.
    Two differences from that API remain. Its resizing keeps the top left pixel in place: where an image is s times as
    large as the input, its inputs are shifted right and down by (s - 1) / 2s of a pixel relative to ours, a quarter of
    a pixel at 640x640. And it clips boxes to the image after NMS, not before.

    Raises:
        InputError: what `load_weights` raises.
    """
    state = read_weights(source)
    if tensorflow_weights.SIGNS.keys() & state.keys():
        arguments: dict[str, Any] = tensorflow_weights.arguments(state, source_name(source))
        score, nms_iou = "sigmoid", tensorflow_weights.NMS_IOU
    elif any(sign in state for sign in paddle_weights.SIGNS):
        arguments = paddle_weights.arguments(state, source_name(source))
        kind = paddle_weights.kind(state)
        score, nms_iou = paddle_weights.SCORES[kind], paddle_weights.NMS_IOU[kind]
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
    mean, std = IMAGENET if layout == "paddle" else INCEPTION
    return Pretrained(model, layout, arguments, mean, std, score, nms_iou)


def _require_ssdlite(head: Head, layout: str, source: str) -> SSDLiteHead:
    """The head, which must be SSDLite's.

    Raises:
        InputError: it is another one.
    """
    if not isinstance(head, SSDLiteHead):
        raise InputError(f"{source}: {layout}'s weights need head='ssdlite', the model has another; use from_weights")
    return head


def _torchvision_names(model: Detector, head: SSDLiteHead) -> dict[str, str]:
    """torchvision's names of SSDLite -> ours. torchvision splits the backbone after the expansion of C4's block."""
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
    for number in range(len(head.extras)):
        for index, part in enumerate(EXTRA_PARTS):
            names |= conv_norm(f"backbone.extra.{number}.{index}", f"head.extras.{number}.{part}")
    for theirs, ours in PREDICTORS.items():
        for number in range(len(head.class_predictors)):
            their_map, our_map = f"head.{theirs}.module_list.{number}", f"head.{ours}.{number}"
            names |= conv_norm(f"{their_map}.0", f"{our_map}.depthwise")
            names |= linear(f"{their_map}.1", f"{our_map}.project")
    return names


def _with_one_to_one(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A pico head's tensors with one-to-one predictors, copies of the others where there are none."""
    sets = ("towers", "class_predictors", "distance_predictors")
    names = [name for name in state if name.startswith(tuple(f"head.{part}." for part in sets))]
    return {name.replace("head.", ONE_TO_ONE, 1): state[name] for name in names} | dict(state)


def _without_one_to_one(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(ONE_TO_ONE)}


def _without_unused(state: dict[str, Tensor], variant: str, *, background: bool) -> dict[str, Tensor]:
    """Drops the outputs for `UNUSED_IDS` from class predictors that have outputs for all of COCO's ids."""
    state = dict(state)
    ids = range(1 - background, NUM_COCO_IDS + 1)  # 0 for the background
    used = [output for output, category_id in enumerate(ids) if category_id not in UNUSED_IDS]
    for number, anchors in enumerate(anchors_per_cell(variant)):
        for key in (f"head.class_predictors.{number}.project.{value}" for value in ("weight", "bias")):
            if key in state and len(state[key]) == anchors * len(ids):
                state[key] = state[key].unflatten(0, (anchors, len(ids)))[:, used].flatten(0, 1)
    return state
