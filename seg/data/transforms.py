"""Augmentation of street scenes: scale and crop, flip, photometric; all choices follow from the sample's seed."""

import math
import random
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from backbone.data import more as further
from seg.data.dataset import IGNORE

if TYPE_CHECKING:
    import albumentations as A

LUMA_BGR = np.array([0.114, 0.587, 0.299])
"""Weights of the channels in a pixel's grey, as OpenCV and torchvision have them."""
BGR_OF_YIQ = np.array([[1, -1.106, 1.703], [1, -0.272, -0.647], [1, 0.956, 0.619]])


class Window(NamedTuple):
    """What is cut out of an image; a side that is longer than the image's leaves a gap before and after it."""

    top: int
    left: int
    height: int
    width: int
    gap_top: int
    gap_left: int


class TrainTransform:
    """Random scale, crop, flip and colors: `(image_bgr [H, W, 3], labels [H, W], seed)` -> both at `crop_hw`.

    The window is cut before it is resized, which shows the same pixels as resizing the whole image first and costs
    a fraction; of a memory map only the window is read. Where it exceeds the image, the image gets `fill_bgr`
    (ImageNet's mean) and the labels 255. Half of the samples keep their colors, the others go through `color_matrix`.
    Then comes `more`, on all samples.

    Arguments:
        crop_hw: (height, width) of what the network sees.
        scale: smallest and largest factor, uniform in between.
        brightness, contrast, saturation: largest change of a factor around 1; all four 0 for none.
        hue: largest turn of the colors, in turns.
        more: transforms of albumentations for what comes out, which they see as RGB with its labels as `mask`: any
            composition that keeps the size, or what `backbone.data.more.compose` makes of a config's list.

    Raises:
        InputError: a transform of `more` would fill uncovered labels with a class; give it `fill_mask=255`.
    """

    def __init__(
        self,
        crop_hw: tuple[int, int],
        *,
        scale: tuple[float, float] = (0.5, 2.0),
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.05,
        fill_bgr: tuple[int, int, int] = (104, 116, 124),
        more: "A.Compose | None" = None,
    ) -> None:
        self.crop_hw, self.scale, self.fill_bgr = crop_hw, scale, fill_bgr
        self.largest = np.array([brightness, contrast, saturation, hue])
        self.more = None if more is None else further.adopt(more, masks=True)

    def rows(self, size_hw: tuple[int, int], seed: tuple[int, ...]) -> int:
        """How many rows from the top of an image of this size are looked at for a seed."""
        _, window = self._choose(size_hw, np.random.default_rng(np.random.SeedSequence(seed)))
        return min(size_hw[0], window.top + window.height)

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, seed: tuple[int, ...], size_hw: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`size_hw` is the image's, where image and labels lack rows at the bottom that are not looked at."""
        state = np.random.SeedSequence(seed)
        rng = np.random.default_rng(state)
        factor, window = self._choose(size_hw or labels.shape, rng)
        image, labels = cut(image, window, self.fill_bgr), cut(labels, window, IGNORE)
        size_wh = self.crop_hw[::-1]
        # Between a half and 1, linear sampling reaches every pixel, as INTER_AREA does in fifteen times the time.
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR if factor >= 0.5 else cv2.INTER_AREA)
        labels = cv2.resize(labels, size_wh, interpolation=cv2.INTER_NEAREST)
        if self.largest.any() and rng.random() < 0.5:
            changes = rng.uniform(-self.largest, self.largest)
            brightness, contrast, saturation = np.maximum(1 + changes[:3], 0)
            image = cv2.transform(image, color_matrix(image, brightness, contrast, saturation, changes[3]))
        flip_seed, more_seed = state.generate_state(2).tolist()
        # The draw of albumentations' HorizontalFlip with this seed, which runs so far have been trained with.
        if random.Random(flip_seed).random() < 0.5:
            image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
        if self.more is not None:
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            changed = further.apply(self.more, more_seed, rgb, mask=labels)
            image, labels = cv2.cvtColor(changed["image"], cv2.COLOR_RGB2BGR), changed["mask"]
        return image, labels

    def _choose(self, size_hw: tuple[int, int], rng: np.random.Generator) -> tuple[float, Window]:
        """A factor, and a window at a random place; a side longer than the image's gets random gaps at both ends."""
        factor = rng.uniform(*self.scale)
        window_hw = [round(side / factor) for side in self.crop_hw]
        spare = [side - long for side, long in zip(size_hw, window_hw, strict=True)]
        gaps = [int(rng.integers(0, max(0, -rest) + 1)) for rest in spare]
        corner = [int(rng.integers(0, max(0, rest) + 1)) for rest in spare]
        return factor, Window(*corner, *window_hw, *gaps)


def color_matrix(image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """Brightness, contrast, saturation and hue, in this order, as one matrix [3, 4] for `cv2.transform` on BGR.

    A tenth of the time of albumentations' `ColorJitter`, which goes through the image for each. Brightness, contrast
    (about the mean grey of `image`) and saturation alone give its values; in a row they are not cut to 0..255 in
    between. Hue turns the colors around grey at constant luma (in YIQ), where `ColorJitter` shifts HSV's hue.

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


def cut(values: np.ndarray, window: Window, fill: int | tuple[int, int, int]) -> np.ndarray:
    """A window of an image or of labels; what lies outside gets `fill`."""
    inside = values[window.top : window.top + window.height, window.left : window.left + window.width]
    height, width = inside.shape[:2]
    if (height, width) == (window.height, window.width):
        return inside
    below, right = window.height - height - window.gap_top, window.width - width - window.gap_left
    edges = (window.gap_top, below, window.gap_left, right)
    return cv2.copyMakeBorder(inside, *edges, cv2.BORDER_CONSTANT, value=fill)
