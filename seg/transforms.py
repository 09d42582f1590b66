"""Augmentation of street scenes: scale and crop, flip, photometric; all choices follow from the sample's seed."""

import math
import os
from collections.abc import Callable

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version

import albumentations as A
import cv2
import numpy as np

from seg.cityscapes import IGNORE

LUMA_BGR = np.array([0.114, 0.587, 0.299])
"""Weights of the channels in a pixel's grey, as OpenCV and torchvision have them."""
BGR_OF_YIQ = np.array([[1, -1.106, 1.703], [1, -0.272, -0.647], [1, 0.956, 0.619]])

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
    a fraction; of a memory map only the window is read. Where it exceeds the picture, the picture gets `fill_bgr`
    (ImageNet's mean) and the labels 255. Half of the samples keep their colours, the others go through `color_matrix`.

    Arguments:
        crop_hw: (height, width) of what the network sees.
        scale: smallest and largest factor, uniform in between.
        brightness, contrast, saturation: largest change of a factor around 1; all four 0 for none.
        hue: largest turn of the colours, in turns.
    """
    after_crop = A.Compose([A.HorizontalFlip(p=0.5)])
    largest = np.array([brightness, contrast, saturation, hue])

    def transform(image: np.ndarray, labels: np.ndarray, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        state = np.random.SeedSequence(seed)
        random = np.random.default_rng(state)
        factor = random.uniform(*scale)
        image, labels = crop(image, labels, random, tuple(round(side / factor) for side in crop_hw), fill_bgr)
        size_wh = crop_hw[::-1]
        # Between a half and 1, linear sampling reaches every pixel, as INTER_AREA does in fifteen times the time.
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR if factor >= 0.5 else cv2.INTER_AREA)
        labels = cv2.resize(labels, size_wh, interpolation=cv2.INTER_NEAREST)
        if largest.any() and random.random() < 0.5:
            changes = random.uniform(-largest, largest)
            image = cv2.transform(image, color_matrix(image, *np.maximum(1 + changes[:3], 0), changes[3]))
        after_crop.set_random_seed(int(state.generate_state(1)[0]))  # otherwise all workers draw the same choices
        changed = after_crop(image=image, mask=labels)
        return changed["image"], changed["mask"]

    return transform


def color_matrix(image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Brightness, contrast, saturation and hue, in this order, as one matrix [3, 4] for `cv2.transform` on BGR.

    A tenth of the time of albumentations' `ColorJitter`, which goes through the picture for each. Brightness, contrast
    (about the mean grey of `image`) and saturation alone give its values; in a row they are not cut to 0..255 in
    between. Hue turns the colours around grey at constant luma (in YIQ), where `ColorJitter` shifts HSV's hue.

    Arguments:
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: in turns; 0 changes nothing.
    """
    mean_grey = brightness * float(LUMA_BGR @ cv2.mean(image)[:3])
    cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    turn = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    grey = np.tile(LUMA_BGR, (3, 1))
    colors = BGR_OF_YIQ @ turn @ np.linalg.inv(BGR_OF_YIQ) @ (saturation * np.eye(3) + (1 - saturation) * grey)
    offset = np.full(3, (1 - contrast) * mean_grey)  # grey stays grey under `colors`
    return np.column_stack([brightness * contrast * colors, offset]).astype(np.float32)


def crop(
    image: np.ndarray,
    labels: np.ndarray,
    random: np.random.Generator,
    window_hw: tuple[int, int],
    fill_bgr: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """A window at a random place; sides that are longer than the picture's are padded at random on both ends."""
    missing = [max(0, window - side) for window, side in zip(window_hw, labels.shape, strict=True)]
    before = [int(random.integers(0, gap + 1)) for gap in missing]
    top, left = (
        int(random.integers(0, max(0, side - window) + 1)) for side, window in zip(labels.shape, window_hw, strict=True)
    )
    inside = slice(top, top + window_hw[0]), slice(left, left + window_hw[1])
    image, labels = image[inside], labels[inside]
    if any(missing):
        edges = (before[0], missing[0] - before[0], before[1], missing[1] - before[1])  # top, bottom, left, right
        image = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=fill_bgr)
        labels = cv2.copyMakeBorder(labels, *edges, cv2.BORDER_CONSTANT, value=IGNORE)
    return image, labels
