"""Compares a network of ours with its reference implementation."""

import torch
from torch import nn

SIZES_HW = ((96, 96), (65, 97))


def largest_difference(ours: nn.Module, theirs: nn.Module, sizes_hw: tuple[tuple[int, int], ...] = SIZES_HW) -> float:
    """The largest difference of logits over images of several sizes, relative to the largest logit."""
    worst = 0.0
    for size_hw in sizes_hw:
        images = torch.randn(1, 3, *size_hw, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            want = theirs(images)
            assert want.isfinite().all()
            worst = max(worst, ((ours.eval()(images) - want).abs().max() / want.abs().max()).item())
    return worst
