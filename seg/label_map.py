"""The label of every pixel from coarse logits, exactly as upsampling and argmax give it but computing far less."""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 16
"""Pixels that are interpolated at a time, few enough for a core's own cache."""


class Axis(NamedTuple):
    """How the pixels along one side lie between coarse positions, in cells from each position to the next."""

    first: Tensor  # [fine], the coarse position before each pixel
    before: Tensor  # [cells], the coarse positions that cells begin and end at
    after: Tensor
    pixels: Tensor  # [cells, P], the pixels of each cell; the last one repeated where it has fewer than P
    share: Tensor  # [cells, P], how far each pixel is towards `after`


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits [N, C, h, w] -> labels uint8 [N, H, W], equal to `upsample(logits, size).argmax(1)`; C is at most 256.

    A pixel's logits are a convex combination of those of the four positions around it; where these agree on the
    largest class, so does the pixel. In the other cells, along the borders of objects, a class whose largest corner is
    below some class's smallest corner cannot win, and only the few that can are interpolated.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return torch.stack([_largest(single) for single in logits])
    down, across = (_axis(coarse, fine, logits.device) for coarse, fine in zip(logits.shape[-2:], size, strict=True))
    return torch.stack([_label_map(single, down, across) for single in logits])


def _largest(logits: Tensor) -> Tensor:
    """Logits [C, H, W] -> the class of the largest, uint8 [H, W], in a tenth of argmax's time."""
    labels, best = torch.zeros_like(logits[0], dtype=torch.uint8), logits[0]
    for number, plane in enumerate(logits[1:], start=1):
        labels.masked_fill_(plane > best, number)
        best = torch.maximum(best, plane)
    return labels


def _label_map(logits: Tensor, down: Axis, across: Axis) -> Tensor:
    coarse = _largest(logits)
    labels = coarse.index_select(1, across.first).index_select(0, down.first)  # [H, W]

    around = [coarse[y][:, x] for y in (down.before, down.after) for x in (across.before, across.after)]
    decided = (around[0] == around[1]) & (around[0] == around[2]) & (around[0] == around[3])
    y, x = (~decided).nonzero(as_tuple=True)  # the M undecided cells
    by_position = logits.permute(1, 2, 0)
    corners = torch.stack(
        [by_position[rows[y], columns[x]] for rows in (down.before, down.after) for columns in across[1:3]], dim=1
    )  # [M, 4, C]
    highest, lowest = corners.amax(1), corners.amin(1)
    rounding = 1e-5 * highest.abs().amax(1, keepdim=True)
    count = (highest >= lowest.amax(1, keepdim=True) - rounding).sum(1)  # classes that can win somewhere in the cell
    num_classes, done = logits.shape[0], 0
    for limit in (2, 3, 4, 8, 256):
        cells = ((count > done) & (count <= limit)).nonzero().squeeze(1)
        classes = highest[cells].topk(min(limit, num_classes), dim=1).indices.sort(dim=1).values
        values = corners[cells].gather(2, classes[:, None].expand(-1, 4, -1)).permute(2, 1, 0)  # [K, 4, m]
        _interpolate(labels, values.contiguous(), classes.t().to(torch.uint8), y[cells], x[cells], down, across)
        done = limit
    return labels


def _interpolate(
    labels: Tensor, values: Tensor, classes: Tensor, y: Tensor, x: Tensor, down: Axis, across: Axis
) -> None:
    """Writes the largest of `classes` [K, m] at the pixels of m cells, whose corners have `values` [K, 4, m]."""
    step = max(1, CHUNK // (down.share.shape[1] * across.share.shape[1]))
    for start in range(0, len(y), step):
        part = slice(start, start + step)
        rows, columns = y[part], x[part]
        vertical, horizontal = down.share[rows][:, :, None], across.share[columns][:, None]
        best = winner = None
        for corners, number in zip(values[:, :, part, None, None], classes[:, part, None, None], strict=True):
            above, below = (torch.lerp(corners[at], corners[at + 1], horizontal) for at in (0, 2))  # [m, 1, P]
            value = torch.lerp(above, below, vertical)  # [m, P, P]
            if best is None:
                best, winner = value, number.expand(value.shape)
            else:
                winner = torch.where(value > best, number, winner)
                best = torch.maximum(best, value)
        labels.index_put_((down.pixels[rows][:, :, None], across.pixels[columns][:, None]), winner)


def _axis(coarse: int, fine: int, device: torch.device) -> Axis:
    position = ((torch.arange(fine, device=device) + 0.5) * (coarse / fine) - 0.5).clamp(min=0)
    first = position.long()
    before, count = first.unique_consecutive(return_counts=True)
    start = count.cumsum(0) - count
    steps = torch.arange(int(count.max()), device=device)
    pixels = start[:, None] + torch.minimum(steps[None], count[:, None] - 1)
    return Axis(first, before, (before + 1).clamp(max=coarse - 1), pixels, (position - first)[pixels])
