"""The probability of each pixel's label, from coarse logits, in memory of a few rows."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

ROWS_VALUES = 1 << 21
"""Values interpolated at a time, 8 MB: all of a 4K frame's would take 600."""


def winning_scores(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits [N, C, h, w] -> float32 [N, H, W], equal to `upsample(logits, size).softmax(1).amax(1)` up to rounding.

    Arguments:
        size: (H, W) in pixels.
    """
    height, width = size
    num, classes, coarse = logits.shape[:3]
    wide = functional.interpolate(logits, size=(coarse, width), mode="bilinear", align_corners=False)
    position = ((torch.arange(height, device=logits.device) + 0.5) * (coarse / height) - 0.5).clamp(0, coarse - 1)
    before = position.long()
    after = (before + 1).clamp(max=coarse - 1)
    share = (position - before)[:, None].to(wide.dtype)
    scores = torch.empty((num, height, width), dtype=torch.float32, device=logits.device)
    step = max(1, ROWS_VALUES // (num * classes * width))
    for start in range(0, height, step):
        rows = slice(start, start + step)
        values = torch.lerp(wide[:, :, before[rows]], wide[:, :, after[rows]], share[rows])  # [N, C, rows, W]
        scores[:, rows] = (values.amax(1) - values.logsumexp(1)).exp()
    return scores
