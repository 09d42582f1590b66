"""How an image's labels come from a model: at once, by sliding window, over several scales, with its mirror image."""

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
    """Settings of an evaluation; the default sees the whole image once, as training's evaluation does.

    Raises:
        InputError: a setting is out of range.
    """

    window_hw: tuple[int, int] | None = None  # pixels; a window beyond the image is cut to it
    stride_hw: tuple[int, int] | None = None  # from window to window; two thirds of the window if not given
    scales: tuple[float, ...] = (1.0,)  # of the image; windows keep their size
    flip: bool = False  # the mean with the mirrored image's result

    def __post_init__(self) -> None:
        if self.stride_hw is not None and self.window_hw is None:
            raise InputError("a stride needs a window; give both")
        for name, sides in (("window", self.window_hw), ("stride", self.stride_hw)):
            if sides is not None and min(sides) < 1:
                raise InputError(f"{name} {sides[0]} {sides[1]}: both must be 1 or more")
        if self.stride_hw is not None and any(s > w for s, w in zip(self.stride_hw, self.window_hw, strict=True)):
            raise InputError(
                f"stride {_text(self.stride_hw)}: is above the window's {_text(self.window_hw)}, leaving gaps"
            )
        for scale in self.scales:
            if not SCALES[0] <= scale <= SCALES[1]:
                raise InputError(f"scale {scale:g}: must lie between {SCALES[0]:g} and {SCALES[1]:g}")
        if not self.scales:
            raise InputError("scales: give at least one")

    def labels(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> labels uint8 [N, H, W], at the size of the images."""
        size = images.shape[-2:]
        whole = self.window_hw is None or all(w >= s for w, s in zip(self.window_hw, size, strict=True))
        if whole and self.scales == (1.0,) and not self.flip:
            return label_map(model(images).float(), tuple(images.shape[-2:]))
        return self.scores(model, images).argmax(1).to(torch.uint8)

    def scores(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> [N, C, H, W]: logits, or the mean probabilities over scales and mirror images."""
        if self.scales == (1.0,) and not self.flip:
            return self._logits(model, images)
        size, total = images.shape[-2:], 0.0
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
        """`whole images`, `windows of 512x512, scales 0.75, 1, mean with the mirror image` and the like."""
        parts = ["whole images"]
        if self.window_hw is not None:
            stride = self.stride_hw or default_stride(self.window_hw)
            parts = [f"windows of {_text(self.window_hw)} every {_text(stride)} (height x width)"]
        if self.scales != (1.0,):
            parts.append(f"scales {', '.join(f'{scale:g}' for scale in self.scales)}")
        return "; ".join([*parts, "mean with the mirror image"] if self.flip else parts)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits at the size of the images, the mean where windows overlap."""
        size = tuple(images.shape[-2:])
        if self.window_hw is None:
            return upsample(model(images).float(), size)
        window = tuple(min(pair) for pair in zip(self.window_hw, size, strict=True))
        stride = self.stride_hw or default_stride(self.window_hw)
        total, count = None, images.new_zeros(size)
        for top in window_starts(size[0], window[0], stride[0]):
            for left in window_starts(size[1], window[1], stride[1]):
                at = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                logits = upsample(model(images[at]).float(), window)
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], *size)
                total[at] += logits
                count[at] += 1
        return total / count


def default_stride(window_hw: tuple[int, int]) -> tuple[int, int]:
    """Two thirds of a window: neighbours overlap by a third."""
    return tuple(max(1, side * 2 // 3) for side in window_hw)


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin, so that they cover a side; the last one ends with it."""
    return [*range(0, side - window, stride), side - window]


def _text(sides: tuple[int, int]) -> str:
    return "x".join(map(str, sides))
