"""Draws results, a legend of classes and the speed on a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True)
class Drawing:
    """How results are drawn."""

    opacity: float = 0.5  # of the segmentation's colors, 0 to 1
    score_threshold: float = 0.5  # detections below it are not drawn
    legend: bool = True  # names of the classes in the image, and frames per second


def draw(
    frame: np.ndarray, results: Sequence[tuple[str, Any]], drawing: Drawing, frames_per_second: float
) -> np.ndarray:
    """A copy of the frame, uint8 BGR `[H, W, 3]`, with the results drawn on it in their order, then legend and speed.

    Arguments:
        results: pairs of task and result.
        frames_per_second: of the whole pipeline; 0 is not drawn.
    """
    image = frame  # each draw copies
    for task, result in results:
        if task == "segmentation":
            image = result.draw(image, opacity=drawing.opacity)
        else:
            image = result.draw(image, score_threshold=drawing.score_threshold)
    if drawing.legend:
        draw_legend(image, [result for task, result in results if task == "segmentation"], frames_per_second)
    return image


def draw_legend(image: np.ndarray, segmentations: Sequence[Any], frames_per_second: float) -> None:
    """Writes the speed and, with their colors, the classes that are present into the image; boxes carry their names."""
    height, width = image.shape[:2]
    row = max(12, round(min(height, width) / 24))  # pixels
    top = row // 2
    if frames_per_second > 0:
        draw_text(image, f"{frames_per_second:.1f} frames/s", (row // 2, top + row), row)
        top += row + row // 2
    for result in segmentations:
        pixels = cv2.calcHist([result.labels], [0], None, [256], [0, 256]).ravel()
        for label in np.flatnonzero(pixels[: len(result.classes)]):
            if top + row > height:
                return
            color = [int(channel) for channel in result.colors[label][::-1]]
            cv2.rectangle(image, (row // 2, top), (row // 2 + row, top + row - 3), color, cv2.FILLED)
            draw_text(image, result.classes[label], (2 * row, top + row - 3), row)
            top += row


def draw_text(image: np.ndarray, text: str, corner_xy: tuple[int, int], height: int) -> None:
    """Writes white letters with a dark outline, readable on any background.

    Arguments:
        corner_xy: lower left corner of the text, pixels.
        height: of a line, pixels.
    """
    scale = height / 32  # the font's capitals are 22 pixels high
    left, bottom = corner_xy
    # The outline is the same text moved by a pixel: OpenCV 5 sets thicker letters wider, so that they would not align.
    for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)):
        color = (255, 255, 255) if (right, down) == (0, 0) else (0, 0, 0)
        corner = (left + right, bottom + down)
        cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
