"""Augmentation of street scenes: scale and crop, flip, photometric; all choices follow from the sample's seed."""

import os
from collections.abc import Callable

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version

import albumentations as A
import cv2
import numpy as np

from seg.cityscapes import IGNORE

Transform = Callable[[np.ndarray, np.ndarray, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]


def train_transform(
    crop_hw: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    brightness: float = 0.3,
    contrast: float = 0.3,
    saturation: float = 0.3,
    hue: float = 0.05,
    fill_bgr: tuple[int, int, int] = (104, 116, 124),
) -> Transform:
    """Random scale, crop, flip and colours: `(image_bgr [H, W, 3], labels [H, W], seed)` -> both at `crop_hw`.

    The window is cut before it is resized, which shows the same pixels as resizing the whole picture first and costs
    a fraction. Where it exceeds the picture, the picture gets `fill_bgr` (ImageNet's mean) and the labels 255.

    Arguments:
        crop_hw: (height, width) of what the network sees.
        scale: smallest and largest factor, uniform in between.
        brightness, contrast, saturation, hue: largest change, as `ColorJitter` takes them; all 0 for none.
    """
    steps = [A.HorizontalFlip(p=0.5)]
    if brightness or contrast or saturation or hue:
        steps.append(
            A.ColorJitter(_around_one(brightness), _around_one(contrast), _around_one(saturation), (-hue, hue))
        )
    after_crop = A.Compose(steps)

    def transform(image: np.ndarray, labels: np.ndarray, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        state = np.random.SeedSequence(seed)
        random = np.random.default_rng(state)
        factor = random.uniform(*scale)
        image, labels = crop(image, labels, random, tuple(round(side / factor) for side in crop_hw), fill_bgr)
        size_wh = crop_hw[::-1]
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR if factor > 1 else cv2.INTER_AREA)
        labels = cv2.resize(labels, size_wh, interpolation=cv2.INTER_NEAREST)
        after_crop.set_random_seed(int(state.generate_state(1)[0]))  # otherwise all workers draw the same choices
        changed = after_crop(image=image, mask=labels)
        return changed["image"], changed["mask"]

    return transform


def crop(
    image: np.ndarray,
    labels: np.ndarray,
    random: np.random.Generator,
    window_hw: tuple[int, int],
    fill_bgr: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """A window at a random place; sides that are longer than the picture's are padded at random on both ends."""
    missing = [max(0, window - side) for window, side in zip(window_hw, labels.shape, strict=True)]
    if any(missing):
        before = [int(random.integers(0, gap + 1)) for gap in missing]
        edges = (before[0], missing[0] - before[0], before[1], missing[1] - before[1])  # top, bottom, left, right
        image = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=fill_bgr)
        labels = cv2.copyMakeBorder(labels, *edges, cv2.BORDER_CONSTANT, value=IGNORE)
    top, left = (
        int(random.integers(0, side - window + 1)) for side, window in zip(labels.shape, window_hw, strict=True)
    )
    rows, columns = slice(top, top + window_hw[0]), slice(left, left + window_hw[1])
    return image[rows, columns], labels[rows, columns]


def _around_one(change: float) -> tuple[float, float]:
    return (max(0.0, 1 - change), 1 + change)
