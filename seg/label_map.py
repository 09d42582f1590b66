"""The label of every pixel from coarse logits, exactly as upsampling and argmax give it but computing far less."""

import torch
from torch import Tensor

from seg.model import upsample

MAX_UNDECIDED = 0.4
"""Above this share of undecided pixels (an untrained network) the full computation is the faster one."""


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits [N, C, h, w] -> labels uint8 [N, H, W], equal to `upsample(logits, size).argmax(1)`; C is at most 256.

    A pixel's logits are a convex combination of those of the four positions around it; where these agree on the
    largest class, so does the pixel. Only the others, along the borders of objects, are interpolated.
    """
    return torch.stack([_label_map(single, size) for single in logits])


def _label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    by_position = logits.permute(1, 2, 0).contiguous()  # [h, w, C]
    coarse = by_position.argmax(-1).to(torch.uint8)
    top, bottom, down = _neighbours(logits.shape[1], size[0], logits.device)
    left, right, across = _neighbours(logits.shape[2], size[1], logits.device)

    upper, lower = coarse[top], coarse[bottom]  # [H, w]
    labels = upper[:, left]  # [H, W]
    decided = (upper == lower)[:, left] & (labels == upper[:, right]) & (labels == lower[:, right])
    undecided = (~decided).flatten().nonzero().squeeze(1)
    if undecided.numel() > MAX_UNDECIDED * labels.numel():
        return upsample(logits[None], size)[0].argmax(0).to(torch.uint8)
    row, column = undecided // size[1], undecided % size[1]
    above, below, left, right = top[row], bottom[row], left[column], right[column]
    down, across = down[row, None], across[column, None]
    mixed_above = torch.lerp(by_position[above, left], by_position[above, right], across)
    mixed_below = torch.lerp(by_position[below, left], by_position[below, right], across)
    labels.view(-1)[undecided] = torch.lerp(mixed_above, mixed_below, down).argmax(-1).to(torch.uint8)
    return labels


def _neighbours(coarse: int, fine: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `fine` positions the two coarse ones it lies between, and how far it is towards the second."""
    position = ((torch.arange(fine, device=device) + 0.5) * (coarse / fine) - 0.5).clamp(min=0)
    first = position.long()
    return first, (first + 1).clamp(max=coarse - 1), position - first
