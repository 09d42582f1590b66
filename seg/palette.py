"""Colors for classes: distinct ones for classes that were given none, and Pascal VOC's palette for reading masks."""

from collections.abc import Sequence

import cv2
import numpy as np

RGB = tuple[int, int, int]
BLACK = (0, 0, 0)
"""What pixels without a class are drawn in."""
LIGHTNESS = (30, 95)
MIN_CHROMA = 20
"""Distinct colors have this CIELAB lightness (0 to 100) and chroma, so that they show as a tint over an image."""


def distinct_colors(count: int, given: Sequence[RGB] = ()) -> list[RGB]:
    """RGB colors, 0 to 255, as far from each other, from the given ones and from black as possible; always the same.

    Each next color is the one of a grid of 4096 that is farthest, in CIELAB, from all that are taken. So the first 20
    are at least 40 apart; beside the 19 of Cityscapes, the first 5 are at least 40 and the first 30 at least 25 from
    all others. 254 colors are still 10 apart; 2 is just noticeable side by side.
    """
    levels = np.arange(0, 256, 17)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = to_lab(grid)
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    visible = (lightness >= LIGHTNESS[0]) & (lightness <= LIGHTNESS[1]) & (chroma >= MIN_CHROMA)
    grid, lab = grid[visible], lab[visible]
    distance = np.full(len(grid), np.inf)  # of each candidate from the nearest color that is taken
    for taken in to_lab([BLACK, *given]):
        distance = np.minimum(distance, np.linalg.norm(lab - taken, axis=1))
    colors = []
    for _ in range(count):
        farthest = distance.argmax()
        red, green, blue = grid[farthest].tolist()
        colors.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=1))
    return colors


def to_lab(colors: Sequence[RGB] | np.ndarray) -> np.ndarray:
    """RGB colors [n, 3], 0 to 255, in CIELAB, float32 [n, 3]: Euclidean distances there are about what an eye sees."""
    rgb = np.asarray(colors, np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0]


def pascal_voc_color(number: int) -> RGB:
    """The RGB color of an id in Pascal VOC's palette: the bits of the number, dealt out to the channels."""
    channels = [0, 0, 0]
    for position in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * position + channel) & 1) << (7 - position)
    red, green, blue = channels
    return red, green, blue
