"""Bilinear resizing of feature maps and logits."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def resize(maps: Tensor, size_hw: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Bilinear resizing: [N, C, h, w] -> [N, C, H, W].

    Arguments:
        size_hw: (H, W) in pixels.
        align_corners: keep the values of the corner pixels, as PyTorch's `align_corners=True`; by default the outer
            edges of the maps are aligned (half-pixel centers).
    """
    return F.interpolate(maps, size=list(size_hw), mode="bilinear", align_corners=align_corners)


def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits [N, C, h, w] -> [N, C, H, W] for size (H, W), bilinearly with half-pixel centers."""
    return resize(logits, size)
