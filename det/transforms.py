"""Transforms of a picture and its boxes into the network input; the only place that knows albumentations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import albumentations as A
import cv2
import numpy as np

from backbone.errors import InputError

CROWD = -1
"""The label of a box around many objects that nobody told apart."""
STRENGTHS = ("ssd", "flip", "none")
# The colour around a zoomed-out picture: 0 after the usual normalisation by mean 0.5 and deviation 0.5.
FILL = (127, 127, 127)
# Boxes thinner than this in the network input are slivers that a crop left over: nothing to see, nothing to learn.
MIN_BOX_SIDE = 1.0
# SSD's patches: a random one of these smallest overlaps; above 1 is "the whole picture".
MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, np.inf)
CROP_TRIALS = 40
CROP_SIDES = (0.3, 1.0)
CROP_ASPECTS = (0.5, 2.0)
MAX_ZOOM_OUT = 4.0


class Transformed(NamedTuple):
    """A picture and its boxes at the size of the network input."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    boxes: np.ndarray  # [n, 4] float32, xyxy in pixels of `image`, at least 1 pixel wide and high
    labels: np.ndarray  # [n] int64, of the boxes that are left; CROWD for crowds


Transform = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Transformed]
"""(image `[H, W, 3]` uint8 RGB, boxes `[n, 4]` float32 xyxy pixels, labels `[n]` int64, seed) -> Transformed."""


def size_hw(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of an image size given as one side or as (height, width)."""
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def resize(image: np.ndarray, image_size_hw: tuple[int, int]) -> np.ndarray:
    """Stretch a picture `[H, W, C]` to (height, width), the one way for evaluation, prediction and video."""
    height, width = image_size_hw
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def eval_transform(image_size: int | Sequence[int]) -> Transform:
    """Stretch to `image_size` (one side or (height, width)); nothing random."""
    out_hw = size_hw(image_size)

    def transform(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int) -> Transformed:
        height, width = image.shape[:2]
        window = np.array([0, 0, width, height], np.float32)
        boxes, labels = _into_window(boxes, labels, window, False, out_hw)
        return Transformed(resize(image, out_hw), boxes, labels)

    return transform


def train_transform(image_size: int | Sequence[int], strength: str = "ssd") -> Transform:
    """The augmentation of SSD, drawn from the seed alone.

    "ssd" is photometric distortion, zoom-out (up to 4 times, half of the time), a crop that keeps a random smallest
    overlap with some box, and a horizontal flip; "flip" only the flip; "none" is `eval_transform`. All geometry is one
    window of the picture that is stretched to the input, so every pixel is interpolated once.

    Raises InputError for an unknown strength.
    """
    if strength not in STRENGTHS:
        raise InputError(f"augmentation {strength!r} is unknown; choose one of {', '.join(STRENGTHS)}")
    out_hw = size_hw(image_size)
    if strength == "none":
        return eval_transform(out_hw)
    return SSDAugment(out_hw, crop_and_color=strength == "ssd")


class SSDAugment:
    """What `train_transform` returns; a class so that loader workers can be given a copy of it."""

    def __init__(self, out_hw: tuple[int, int], crop_and_color: bool) -> None:
        self.out_hw = out_hw
        self.crop_and_color = crop_and_color
        # SSD draws each distortion separately, half of the time; ranges as in torchvision's SSD preset.
        same, half = (1.0, 1.0), 0.5
        self.color = A.Compose(
            [
                A.ColorJitter(brightness=(0.875, 1.125), contrast=same, saturation=same, hue=(0.0, 0.0), p=half),
                A.ColorJitter(brightness=same, contrast=(0.5, 1.5), saturation=same, hue=(0.0, 0.0), p=half),
                A.ColorJitter(brightness=same, contrast=same, saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=half),
                A.ChannelShuffle(p=half),
            ]
        )

    def __call__(self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int) -> Transformed:
        rng = np.random.default_rng(seed)
        height, width = image.shape[:2]
        window = np.array([0, 0, width, height], np.float32)
        if self.crop_and_color:
            window = crop(zoom_out(window, rng), boxes[labels != CROWD], rng)
        flip = rng.random() < 0.5
        pixels = _stretch(image, window, flip, self.out_hw)
        if self.crop_and_color:
            # Without a seed of its own albumentations repeats one stream in every worker and every epoch.
            self.color.set_random_seed(seed)
            pixels = self.color(image=pixels)["image"]
        boxes, labels = _into_window(boxes, labels, window, flip, self.out_hw)
        return Transformed(pixels, boxes, labels)


def zoom_out(window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the time a window (xyxy, float32) up to 4 times as wide and high that contains the given one."""
    if rng.random() < 0.5:
        return window
    sides = (window[2:] - window[:2]) * rng.uniform(1.0, MAX_ZOOM_OUT)
    slack = sides - (window[2:] - window[:2])
    corner = window[:2] - slack * rng.random(2)
    return np.concatenate([corner, corner + sides]).astype(np.float32)


def crop(window: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of the window (xyxy, float32) by SSD's rule.

    Forty parts are drawn, 0.3 to 1 of each side and at most twice as wide as high or the reverse; the first wins that
    holds a box's centre and overlaps such a box by the drawn smallest IoU. If none does another overlap is drawn, until
    the lot falls on the whole window. Without boxes the first part of a fair shape wins.
    """
    sides = window[2:] - window[:2]
    while True:
        smallest = MIN_OVERLAPS[rng.integers(len(MIN_OVERLAPS))]
        if np.isinf(smallest):
            return window
        part_sides = sides * rng.uniform(*CROP_SIDES, size=(CROP_TRIALS, 2))
        corners = window[:2] + (sides - part_sides) * rng.random((CROP_TRIALS, 2))
        parts = np.concatenate([corners, corners + part_sides], axis=1)
        aspect = part_sides[:, 0] / part_sides[:, 1]
        fits = (aspect >= CROP_ASPECTS[0]) & (aspect <= CROP_ASPECTS[1])
        if len(boxes):
            overlap = np.where(_centers_inside(boxes, parts[:, None]), _iou(parts[:, None], boxes), -1.0)
            fits &= overlap.max(axis=1) >= smallest
        if fits.any():
            return parts[fits.argmax()].astype(np.float32)


def _centers_inside(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Whether the centres of `[..., 4]` boxes lie in `[..., 4]` windows, broadcast."""
    x = (boxes[..., 0] + boxes[..., 2]) / 2
    y = (boxes[..., 1] + boxes[..., 3]) / 2
    return (x > windows[..., 0]) & (x < windows[..., 2]) & (y > windows[..., 1]) & (y < windows[..., 3])


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU of `[..., 4]` xyxy boxes of positive area, broadcast."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    common = sides.clip(min=0).prod(axis=-1)
    areas = (one[..., 2:] - one[..., :2]).prod(axis=-1) + (other[..., 2:] - other[..., :2]).prod(axis=-1)
    return common / (areas - common)


def _stretch(image: np.ndarray, window: np.ndarray, flip: bool, out_hw: tuple[int, int]) -> np.ndarray:
    """The window (xyxy, may reach beyond the picture), mirrored if `flip`, stretched to (height, width)."""
    out_height, out_width = out_hw
    scale_x, scale_y = out_width / (window[2] - window[0]), out_height / (window[3] - window[1])
    # Pixel centres lie at halves, so the matrix that takes edges to edges shifts by half a pixel on both sides.
    matrix = np.array([[scale_x, 0, 0], [0, scale_y, 0]], np.float64)
    matrix[0, 2] = (0.5 - window[0]) * scale_x - 0.5
    matrix[1, 2] = (0.5 - window[1]) * scale_y - 0.5
    if flip:
        matrix[0] *= -1
        matrix[0, 2] += out_width - 1
    return cv2.warpAffine(
        image, matrix, (out_width, out_height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=FILL
    )


def _into_window(
    boxes: np.ndarray, labels: np.ndarray, window: np.ndarray, flip: bool, out_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes whose centre is in the window, clipped to it, in pixels of the input; slivers go.

    Of a crowd's box stays what is in the window, wherever its centre is.
    """
    height, width = out_hw
    inside = _centers_inside(boxes, window) | (labels == CROWD)
    boxes, labels = boxes[inside], labels[inside]
    scale = np.array([width, height], np.float32) / (window[2:] - window[:2])
    boxes = (boxes - np.tile(window[:2], 2)) * np.tile(scale, 2)
    boxes = boxes.clip(0, np.array([width, height, width, height], np.float32))
    if flip:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    thick = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= MIN_BOX_SIDE
    return boxes[thick].astype(np.float32), labels[thick]
