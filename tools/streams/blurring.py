"""Makes persons, cars or other classes unrecognisable before anything else is drawn or stored."""

from collections.abc import Collection, Sequence
from typing import Any

import cv2
import numpy as np

from backbone.errors import InputError

CELLS = 4
"""Along the shorter side of a blurred box: too few for a face or a number plate, also over many frames."""

MARGIN = 0.1
"""Of a box's size, blurred around it: boxes often cut an ear or a bumper off."""

SCORE = 0.2
"""Detections from this score on are blurred: what is drawn by mistake is an annoyance, what is shown by mistake is not
to be undone."""


def check_blur(names: Collection[str], known: Sequence[str]) -> None:
    """Compares the names of what is to be blurred with the models' classes.

    Raises:
        InputError: no model knows one of them.
    """
    for name in names:
        if name not in known:
            raise InputError(f"--blur {name}: no such class; the models know {', '.join(dict.fromkeys(known))}")


def blur(frame: np.ndarray, results: Sequence[tuple[str, Any]], names: Collection[str]) -> np.ndarray:
    """A copy of the frame, uint8 BGR `[H, W, 3]`, with these classes in coarse squares of their mean colors.

    Arguments:
        results: pairs of task and result.
    """
    image = frame.copy()
    height, width = frame.shape[:2]
    for task, result in results:
        wanted = [label for label, name in enumerate(result.classes) if name in names]
        if task == "segmentation":
            mask = np.isin(result.labels, wanted).astype(np.uint8)
            if mask.any():
                side = max(4, min(height, width) // 20)  # pixels
                # A border of labels is often a few pixels off.
                mask = cv2.dilate(mask, np.ones((side // 2 + 1, side // 2 + 1), np.uint8))
                cv2.copyTo(_mosaic(frame, side), mask, image)
        else:
            for box, label, score in zip(result.boxes, result.labels, result.scores, strict=True):
                if label in wanted and score >= SCORE:
                    margins = (box[2:] - box[:2]) * MARGIN
                    left, top = np.maximum(0, np.floor(box[:2] - margins)).astype(int)
                    right, bottom = np.minimum((width, height), np.ceil(box[2:] + margins)).astype(int)
                    part = frame[top:bottom, left:right]
                    if part.size:
                        image[top:bottom, left:right] = _mosaic(part, max(4, -(-min(part.shape[:2]) // CELLS)))
    return image


def _mosaic(image: np.ndarray, side: int) -> np.ndarray:
    """The image in squares of the given side in pixels, each in its mean color."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // side), max(1, height // side)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
