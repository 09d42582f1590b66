"""Cityscapes' polygon files drawn as label maps, pixel for pixel as the official preparation script does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from backbone.data.images import MAX_PIXELS
from backbone.errors import InputError

LICENSE_PLATE = "license plate"
"""The one annotated label that is not drawn: its label id is -1, and the polygons below it stay visible."""


def polygons_size(path: Path) -> tuple[int, int]:
    """(height, width) of the image of a `*_polygons.json` file, in pixels."""
    return _size(path, _load(path))


def draw_polygons(path: Path, label_ids: dict[str, int]) -> np.ndarray:
    """A `*_polygons.json` file as label ids, uint8 [H, W]; later polygons cover earlier ones, 0 where there is none.

    Arguments:
        label_ids: by label; a label with the ending "group" has the id of the one without it.

    Raises:
        InputError: the file is damaged, or has a label that is not in `label_ids`.
    """
    annotation = _load(path)
    height, width = _size(path, annotation)
    image = Image.new("L", (width, height), label_ids["unlabeled"])
    draw = ImageDraw.Draw(image)
    for name, points in _objects(path, annotation):
        label_id = label_ids.get(name, label_ids.get(name.removesuffix("group")))
        if label_id is None:
            raise InputError(f"{path}: label {name!r} is not one of Cityscapes'")
        if len(points) > 1:
            draw.polygon(points, fill=label_id)
        else:
            draw.point(points, fill=label_id)  # Pillow, and so the official script, refuses polygons of one point
    return np.array(image)


def _objects(path: Path, annotation: dict[str, Any]) -> list[tuple[str, list[tuple[float, float]]]]:
    """Label and corners (x, y), in pixels, of every object to draw."""
    try:
        return [
            (str(item["label"]), [(float(x), float(y)) for x, y in item["polygon"]])
            for item in annotation["objects"]
            if item["label"] != LICENSE_PLATE and not item.get("deleted", 0)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: an object lacks a label or a polygon of [x, y] points ({error!r})") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        annotation = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); copy the file again") from error
    if not isinstance(annotation, dict):
        raise InputError(f"{path}: must be an object with imgHeight, imgWidth and objects")
    return annotation


def _size(path: Path, annotation: dict[str, Any]) -> tuple[int, int]:
    height, width = annotation.get("imgHeight"), annotation.get("imgWidth")
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= MAX_PIXELS and height > 0):
        raise InputError(f"{path}: imgHeight {height} and imgWidth {width} are not the size of an image")
    return height, width
