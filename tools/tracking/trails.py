"""Draws where tracked objects have been."""

import itertools
from collections.abc import Iterable

import cv2
import numpy as np

from tools.tracking.tracker import TRAIL_SECONDS, Trail


def draw_trails(image: np.ndarray, trails: Iterable[Trail], seconds: float) -> None:
    """Draws trails into a frame, in the colors of their classes, the thinner the longer ago.

    Arguments:
        image: uint8 BGR `[H, W, 3]`; is changed.
        seconds: time of the frame.
    """
    from det.predictor import class_colors  # imports torch, which takes seconds

    widest = max(2.0, min(image.shape[:2]) / 120)  # pixels
    for trail in trails:
        color = class_colors(trail.label + 1)[-1]
        points = [point for point in trail.points if point[0] > seconds - TRAIL_SECONDS]
        for (_, *start), (then, *end) in itertools.pairwise(points):
            thickness = max(1, round(widest * (1 - (seconds - then) / TRAIL_SECONDS)))
            first, last = ([round(value) for value in point] for point in (start, end))
            cv2.line(image, first, last, color, thickness, cv2.LINE_AA)
