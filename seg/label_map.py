"""The label of every pixel from coarse logits, exactly as upsampling and argmax give it but computing far less."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = (1 << 15) - 1
"""Pixels that are interpolated at a time: few enough for a core's own cache, and for torch not to share among threads
what takes less time than waking one."""


class Axis(NamedTuple):
    """How the pixels along one side lie between coarse positions, in cells from each position to the next."""

    first: Tensor  # [fine], the coarse position before each pixel
    before: Tensor  # [cells], the coarse positions that cells begin and end at
    after: Tensor
    pixels: Tensor  # [P, cells], the pixels of each cell; the last one repeated where it has fewer than P
    share: Tensor  # [P, cells], how far each pixel is towards `after`


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits [N, C, h, w] -> labels uint8 [N, H, W], equal to `upsample(logits, size).argmax(1)`; C is at most 256.

    A pixel's logits are a convex combination of those of the four positions around it; where these agree on the
    largest class, so does the pixel. In the other cells, along the borders of objects, a class whose largest corner is
    below some class's smallest corner cannot win, and only the few that can are interpolated.
    """
    down, across = (_axis(coarse, fine, logits.device) for coarse, fine in zip(logits.shape[-2:], size, strict=True))
    labels = torch.empty((len(logits), *size), dtype=torch.uint8, device=logits.device)
    for single, out in zip(logits, labels, strict=True):
        _label_map(single, out, down, across)
    return labels


def _label_map(logits: Tensor, labels: Tensor, down: Axis, across: Axis) -> None:
    """Writes the labels of one picture, logits [C, h, w], into `labels` [H, W]."""
    num_classes, height, width = logits.shape
    flat = logits.reshape(num_classes, height * width)
    coarse = torch.cat([_largest(part) for part in flat.split(CHUNK, dim=1)]).view(height, width)
    torch.index_select(coarse.index_select(1, across.first), 0, down.first, out=labels)

    rows = [coarse.index_select(0, y) for y in (down.before, down.after)]
    around = [row.index_select(1, x) for row in rows for x in (across.before, across.after)]
    decided = (around[0] == around[1]) & (around[0] == around[2]) & (around[0] == around[3])
    y, x = (~decided).nonzero(as_tuple=True)  # the M undecided cells
    corners = torch.stack(
        [flat.index_select(1, i[y] * width + j[x]) for i in (down.before, down.after) for j in across[1:3]]
    )  # [4, C, M]
    highest, lowest = corners.amax(0), corners.amin(0)  # [C, M]
    rounding = 1e-5 * highest.abs().amax(0)
    possible = highest >= lowest.amax(0) - rounding  # classes that can win somewhere in the cell
    count = possible.sum(0)
    for num_possible in count.unique().tolist():
        cells = (count == num_possible).nonzero().squeeze(1)
        classes = possible[:, cells].t().nonzero()[:, 1].view(-1, num_possible).t()  # [K, m], ascending
        values = corners[:, :, cells].gather(1, classes.expand(4, -1, -1))  # [4, K, m]
        _interpolate(labels, values, classes.to(torch.uint8), y[cells], x[cells], down, across)


def _largest(planes: Tensor) -> Tensor:
    """Planes [C, m] -> the number of the largest at each place, the first of equals, uint8 [m]: argmax, but faster."""
    best, winner = planes[0], torch.zeros_like(planes[0], dtype=torch.uint8)
    for number, values in enumerate(planes[1:], start=1):
        winner.masked_fill_(values > best, number)
        best = torch.maximum(best, values)
    return winner


def _interpolate(
    labels: Tensor, values: Tensor, classes: Tensor, y: Tensor, x: Tensor, down: Axis, across: Axis
) -> None:
    """Writes the largest of `classes` [K, m] at the pixels of m cells, whose corners have `values` [4, K, m]."""
    step = max(1, CHUNK // (down.share.shape[0] * across.share.shape[0]))
    width = labels.shape[1]
    for start in range(0, len(y), step):
        part = slice(start, start + step)
        rows, columns = y[part], x[part]
        vertical = down.share.index_select(1, rows)[:, None]  # [P, 1, m]
        horizontal = across.share.index_select(1, columns)  # [P, m]
        best = winner = None
        for corners, number in zip(values[:, :, part].unbind(1), classes[:, part], strict=True):
            above, below = (torch.lerp(corners[at], corners[at + 1], horizontal) for at in (0, 2))  # [P, m]
            value = torch.lerp(above, below, vertical)  # [P, P, m]
            if best is None:
                best, winner = value, number
            else:
                winner = torch.where(value > best, number, winner)
                best = torch.maximum(best, value)
        pixels = (down.pixels.index_select(1, rows) * width)[:, None] + across.pixels.index_select(1, columns)
        labels.view(-1).scatter_(0, pixels.view(-1), winner.expand(pixels.shape).reshape(-1))


def _axis(coarse: int, fine: int, device: torch.device) -> Axis:
    position = (np.arange(fine, dtype=np.float32) + 0.5) * (coarse / fine) - 0.5
    # Pixels before the first position and behind the last are cells of their own, which keeps the others small.
    cell, start, count = np.unique(np.floor(position).astype(np.int64), return_index=True, return_counts=True)
    before, after = cell.clip(min=0), (cell + 1).clip(max=coarse - 1)
    position = position.clip(min=0)
    first = position.astype(np.int64)
    pixels = start + np.minimum(np.arange(count.max())[:, None], count - 1)
    share = (position - first).astype(np.float32)[pixels]
    arrays = first, before, after, pixels, share
    return Axis(*(torch.from_numpy(array).to(device) for array in arrays))
