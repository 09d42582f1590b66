"""Inference protocols of an evaluation: whole images or sliding windows, several scales, horizontal flip."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.errors import InputError
from seg.labeling import label_map
from seg.model import upsample

SCALES = (0.05, 8.0)


@dataclass(frozen=True)
class Inference:
    """How labels are predicted; by default from the whole image in one pass, as in training's evaluation.

    Raises:
        InputError: a setting is out of range.
    """

    window_hw: tuple[int, int] | None = None  # pixels; a larger window than the image is cut to the image
    stride_hw: tuple[int, int] | None = None  # pixels from window to window; by default two thirds of the window
    scales: tuple[float, ...] = (1.0,)  # factors of the image's size; windows keep theirs
    flip: bool = False  # average with the prediction for the mirrored image

    def __post_init__(self) -> None:
        for name, sides in (("window", self.window_hw), ("stride", self.stride_hw)):
            if sides is not None and min(sides) < 1:
                raise InputError(f"{name} {sides[0]} {sides[1]}: both must be 1 or more")
        if self.stride_hw is not None:
            if self.window_hw is None:
                raise InputError("a stride needs a window; give both")
            if any(s > w for s, w in zip(self.stride_hw, self.window_hw, strict=True)):
                raise InputError(
                    f"stride {_text(self.stride_hw)}: exceeds the window's {_text(self.window_hw)}, leaving gaps"
                )
        for scale in self.scales:
            if not SCALES[0] <= scale <= SCALES[1]:
                raise InputError(f"scale {scale:g}: must lie between {SCALES[0]:g} and {SCALES[1]:g}")
        if not self.scales:
            raise InputError("scales: give at least one")

    def labels(self, model: nn.Module, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] -> labels uint8 [N, H, W]."""
        size = images.shape[-2:]
        whole = self.window_hw is None or all(w >= s for w, s in zip(self.window_hw, size, strict=True))
        if whole and self.scales == (1.0,) and not self.flip:
            return label_map(model(images).float(), images.shape[-2:])
        return self.scores(model, images).argmax(1).to(torch.uint8)

    def scores(self, model: nn.Module, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] -> [N, C, H, W]: logits, or with scales or flip the mean probabilities."""
        if self.scales == (1.0,) and not self.flip:
            return self._logits(model, images)
        size, total = images.shape[-2:], images.new_zeros(())
        for scale in self.scales:
            scaled = images
            if scale != 1.0:
                scaled_size = [max(1, round(side * scale)) for side in size]
                scaled = F.interpolate(images, scaled_size, mode="bilinear", align_corners=False, antialias=True)
            probabilities = upsample(self._logits(model, scaled), size).softmax(1)
            if self.flip:
                mirrored = self._logits(model, scaled.flip(-1)).flip(-1)
                probabilities = probabilities + upsample(mirrored, size).softmax(1)
            total = total + probabilities
        return total / (len(self.scales) * (1 + self.flip))

    def describe(self) -> str:
        """The protocol in words, such as `windows of 512x512 every 341x341 (height x width); scales 0.75, 1`."""
        parts = ["whole images"]
        if self.window_hw is not None:
            stride = self.stride_hw or default_stride(self.window_hw)
            parts = [f"windows of {_text(self.window_hw)} every {_text(stride)} (height x width)"]
        if self.scales != (1.0,):
            parts.append(f"scales {', '.join(f'{scale:g}' for scale in self.scales)}")
        return "; ".join([*parts, "mean with the mirror image"] if self.flip else parts)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits [N, C, H, W], averaged where windows overlap."""
        height, width = images.shape[-2:]
        if self.window_hw is None:
            return upsample(model(images).float(), (height, width))
        window = min(self.window_hw[0], height), min(self.window_hw[1], width)
        stride = self.stride_hw or default_stride(self.window_hw)
        total, count = None, images.new_zeros(height, width)
        for top in window_starts(height, window[0], stride[0]):
            for left in window_starts(width, window[1], stride[1]):
                at = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                logits = upsample(model(images[at]).float(), window)
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], height, width)
                total[at] += logits
                count[at] += 1
        assert total is not None  # there is always a window
        return total / count


def default_stride(window_hw: tuple[int, int]) -> tuple[int, int]:
    """Two thirds of a window (height, width), so that neighboring ones overlap by a third."""
    height, width = window_hw
    return max(1, height * 2 // 3), max(1, width * 2 // 3)


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, so that they cover it; the last one ends with the side. All in pixels."""
    return [*range(0, side - window, stride), side - window]


def _text(sides: tuple[int, int]) -> str:
    return "x".join(map(str, sides))
