"""Transforms of classification: augmentation for training, resizing and center crop for evaluation."""

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from backbone.data.folder import Transform

POLICIES = {"none": None, "randaugment": v2.RandAugment, "autoaugment": v2.AutoAugment}
INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def train_transform(
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    flip: float = 0.5,
    jitter: float = 0.0,
    policy: str = "none",
    erase: float = 0.0,
) -> Transform:
    """Random resized crop, horizontal flip, an augmentation policy, color jitter and random erasing, by torchvision.

    The random choices depend on the seed alone and leave torch's global generator unchanged.

    Arguments:
        size: height and width of the output in pixels.
        scale: smallest and largest share of the image's area that the crop takes.
        flip: probability of the horizontal flip.
        jitter: largest relative change of brightness, contrast and saturation.
        policy: "none", "randaugment" (2 operations of magnitude 9) or "autoaugment" (ImageNet's).
        erase: probability of filling a rectangle with grey.

    Returns:
        A function of an image uint8 BGR [H, W, 3] and a seed that gives uint8 RGB [3, size, size].
    """
    steps: list = [v2.RandomResizedCrop(size, scale=scale, antialias=True), v2.RandomHorizontalFlip(flip)]
    if POLICIES[policy] is not None:
        steps.append(POLICIES[policy](interpolation=InterpolationMode.BILINEAR))
    if jitter:
        steps.append(v2.ColorJitter(jitter, jitter, jitter))
    if erase:
        steps.append(v2.RandomErasing(erase, value=(124, 116, 104)))  # pyright: ignore[reportArgumentType] - a color is allowed
    together = v2.Compose(steps)

    def transform(image_bgr: np.ndarray, seed: tuple[int, ...]) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            return together(to_rgb(image_bgr))

    return transform


def eval_transform(size: int, *, crop_pct: float = 0.875, interpolation: str = "bilinear") -> Transform:
    """Resizes the shorter side to size / crop_pct and takes the central square.

    Arguments:
        size: height and width of the output in pixels.
        interpolation: of the resizing, "bilinear" or "bicubic".

    Returns:
        A function of an image uint8 BGR [H, W, 3] and a seed, unused, that gives uint8 RGB [3, size, size].
    """
    shorter = shorter_side(size, crop_pct)

    def transform(image_bgr: np.ndarray, seed: tuple[int, ...]) -> Tensor:
        resized = F.resize(to_rgb(image_bgr), [shorter], INTERPOLATIONS[interpolation], antialias=True)
        return F.center_crop(resized, [size, size])

    return transform


def shorter_side(size: int, crop_pct: float) -> int:
    """The length in pixels to which an image's shorter side is resized before the crop; rounded down, as in timm."""
    return int(size / crop_pct + 1e-6)


def to_rgb(image_bgr: np.ndarray) -> Tensor:
    """uint8 BGR [H, W, 3] -> uint8 RGB [3, H, W]."""
    return torch.from_numpy(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
