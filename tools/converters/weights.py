"""Recognises published weights and describes them as our own files do."""

from pathlib import Path
from typing import Any, NamedTuple

from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

import backbone
import det
import seg
from backbone.data.transforms import shorter_side
from backbone.errors import InputError
from det import paddle_weights, tensorflow_weights
from seg import paddle_weights as seg_paddle_weights
from seg.data import cityscapes
from seg.palette import distinct_colors, pascal_voc_color
from seg.weights import DEEPLAB_SIGN


class Recognised(NamedTuple):
    """A checkpoint in our form."""

    model: backbone.Classifier | seg.Segmenter | det.Detector
    layout: str
    description: dict[str, Any]  # as the file's header has it


def recognise(
    source: str | Path, *, padding: str | None = None, norm_eps: float | None = None, classes: list[str] | None = None
) -> Recognised:
    """Finds out what a weights file is of, and builds it.

    Arguments:
        padding, norm_eps: of a classifier's weights that do not tell; as `backbone.from_weights` has them.
        classes: names in the order of the outputs, without a detector's background. By default those in the file;
            those of torchvision's published weights where its model has as many outputs; else numbers.
    Raises:
        InputError: the layout is unknown or cannot be reproduced, or there are more or fewer names than classes.
    """
    names = backbone.read_weights(source).keys()
    whole = {
        "classifier.cbr.0.weight": _segmenter,
        DEEPLAB_SIGN: _segmenter,
        seg_paddle_weights.SIGN: _segmenter,
        "backbone.extra.0.0.0.weight": _detector,
        **dict.fromkeys((*paddle_weights.SIGNS, *tensorflow_weights.SIGNS), _detector),
    }
    build = next((build for sign, build in whole.items() if sign in names), None)
    if build is not None:
        if padding is not None or norm_eps is not None:
            raise InputError(f"{source}: weights of whole models tell padding and epsilon; leave the options out")
        found = build(source)
    else:
        found = _classifier(source, padding=padding, norm_eps=norm_eps)
    if classes is not None:
        count = len(found.description["classes"])
        if len(classes) != count:
            raise InputError(f"{source}: has {count} classes, and {len(classes)} names were given; give one for each")
        found.description["classes"] = classes
    return found


def _classifier(source: str | Path, *, padding: str | None, norm_eps: float | None) -> Recognised:
    found = backbone.from_weights(source, padding=padding, norm_eps=norm_eps)
    description = {
        "task": "classification",
        "model": found.arguments,
        "classes": found.classes,
        "mean": found.mean,
        "std": found.std,
        "size": found.size,
        "crop_pct": found.crop_pct,
        "interpolation": found.interpolation,
    }
    return Recognised(found.classifier, found.layout, description)


def _segmenter(source: str | Path) -> Recognised:
    found = seg.from_weights(source)
    count = found.arguments["num_classes"]
    if found.layout in ("deeplab", "paddle"):
        published, colors = cityscapes.NAMES, cityscapes.COLORS
    else:
        published = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"]
        colors = [pascal_voc_color(number) for number in range(len(published))]  # the data set it was trained for
    if count != len(published):
        published, colors = map(str, range(count)), distinct_colors(count)
    description = {
        "task": "segmentation",
        "model": found.arguments,
        "classes": list(published),
        "colors": list(colors),
        "mean": found.mean,
        "std": found.std,
    }
    return Recognised(found.model, found.layout, description)


def _detector(source: str | Path) -> Recognised:
    found = det.from_weights(source)
    published = SSDLite320_MobileNet_V3_Large_Weights.DEFAULT.meta["categories"][1:]  # without the background
    names = [str(number + 1) for number in range(found.model.num_objects)]
    category_ids = list(range(1, len(names) + 1))
    if len(names) == len(published):  # COCO's ids have gaps, which stay numbers
        names = [number if name == "N/A" else name for number, name in zip(names, published, strict=True)]
    elif found.layout == "paddle" and len(names) == sum(name != "N/A" for name in published):
        real = [(number, name) for number, name in enumerate(published, start=1) if name != "N/A"]
        category_ids, names = [number for number, _ in real], [name for _, name in real]
    description = {
        "task": "detection",
        "model": found.arguments,
        "classes": names,
        "category_ids": category_ids,
        "score": found.score,
        "nms_iou": found.nms_iou,
        "mean": found.mean,
        "std": found.std,
    }
    return Recognised(found.model, found.layout, description)


def summary(found: Recognised) -> list[list[str]]:
    """Rows of text: what was recognised."""
    description, arguments = found.description, found.description["model"]
    network = found.model.backbone
    classes = description["classes"]
    shown = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")

    def triple(values: tuple[float, ...]) -> str:
        return " ".join(f"{value:g}" for value in values)

    hidden, images = [], []
    if isinstance(found.model, backbone.Classifier):
        layer = found.model.hidden
        hidden = [["hidden layer", "none" if layer is None else str(layer.out_features)]]
        size, crop_pct, interpolation = (description[key] for key in ("size", "crop_pct", "interpolation"))
        images = [["evaluated at", f"{size}, of a shorter side of {shorter_side(size, crop_pct)}, {interpolation}"]]
    return [
        ["task", description["task"]],
        ["layout", found.layout],
        ["architecture", network.name],
        ["width", f"{arguments.get('width', 1.0):g}"],
        ["tail", arguments.get("tail", "full")],
        *hidden,
        ["classes", f"{len(classes)} ({shown})"],
        ["padding", network.padding],
        ["norm epsilon", f"{network.stem.norm.eps:g}"],
        ["input mean, RGB", triple(description["mean"])],
        ["input deviation", triple(description["std"])],
        *images,
        ["parameters", f"{sum(parameter.numel() for parameter in found.model.parameters()):,}"],
    ]
