"""The label of every pixel from coarse logits: what upsampling and argmax give, for a fraction of the work."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = (1 << 15) - 1
"""Values interpolated at a time: they fit into a core's cache, and stay below the size from which torch splits the
work over threads, whose start would cost more than they save."""

ROUNDING = 1e-5
"""Relative differences up to this may come from rounding."""


class Axis(NamedTuple):
    """Where the pixels along one side lie between coarse positions; a cell reaches from one position to the next."""

    first: Tensor  # [fine], the coarse position before each pixel
    before: Tensor  # [cells], the coarse position at which each cell begins
    after: Tensor  # [cells], the coarse position at which it ends
    pixels: Tensor  # [P, cells], the pixels in each cell; the last one is repeated in cells of fewer than P
    share: Tensor  # [P, cells], the weight of `after` in each pixel's interpolation, 0 to 1


def label_map(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits [N, C, h, w] -> labels uint8 [N, H, W], equal to `upsample(logits, size).argmax(1)`; C is at most 256.

    Bit-exact on a CPU, except where torch rounds in another order (channels-last logits, or exactly three classes):
    there a pixel can differ if its two largest logits agree to float32's last digits.

    Bilinear interpolation is a convex combination of the four coarse positions around a pixel: where all four have the
    same largest class, so has the pixel. In the remaining cells, along the borders of objects, a class whose largest
    corner is below another class's smallest corner cannot win, so only the few classes that can are interpolated.

    Arguments:
        size: (H, W) in pixels.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return torch.stack([_largest(single)[0] for single in logits])
    down, across = (_axis(coarse, fine, logits.device) for coarse, fine in zip(logits.shape[-2:], size, strict=True))
    labels = torch.empty((len(logits), *size), dtype=torch.uint8, device=logits.device)
    for single, out in zip(logits, labels, strict=True):
        _label_map(single, out, down, across)
    return labels


def _label_map(logits: Tensor, labels: Tensor, down: Axis, across: Axis) -> None:
    """Writes the labels of one image, logits [C, h, w], into `labels` [H, W]."""
    num_classes, height, width = logits.shape
    flat = logits.reshape(num_classes, height * width)
    parts = [_largest(part) for part in flat.split(CHUNK, dim=1)]
    coarse, clear = (torch.cat(part).view(height, width) for part in zip(*parts, strict=True))
    torch.index_select(coarse.index_select(1, across.first), 0, down.first, out=labels)

    one, *others = _corners(coarse, down, across)
    undecided = (one != others[0]) | (one != others[1]) | (one != others[2])
    if not clear.all():
        for corner in _corners(clear, down, across):
            undecided |= ~corner
    y, x = undecided.nonzero(as_tuple=True)  # the M undecided cells
    corners = torch.stack(
        [flat.index_select(1, i[y] * width + j[x]) for i in (down.before, down.after) for j in across[1:3]]
    )  # [4, C, M]
    highest, lowest = corners.amax(0), corners.amin(0)  # [C, M]
    rounding = ROUNDING * highest.abs().amax(0)
    possible = highest >= lowest.amax(0) - rounding  # classes that can win somewhere in the cell
    count = possible.sum(0)
    for num_possible in count.unique().tolist():
        cells = (count == num_possible).nonzero().squeeze(1)
        classes = possible[:, cells].t().nonzero()[:, 1].view(-1, num_possible).t()  # [K, m], ascending
        values = corners[:, :, cells].gather(1, classes.expand(4, -1, -1))  # [4, K, m]
        _interpolate(labels, values, classes.to(torch.uint8), y[cells], x[cells], down, across)


def _corners(values: Tensor, down: Axis, across: Axis) -> list[Tensor]:
    """Values [h, w] -> those at the four corners of every cell, each [cells, cells]."""
    rows = [values.index_select(0, y) for y in (down.before, down.after)]
    return [row.index_select(1, x) for row in rows for x in (across.before, across.after)]


def _largest(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Planes [C, m] -> the argmax over C, uint8 [m], faster than torch's; and whether the largest value exceeds all
    others by more than rounding, bool [m]."""
    best, winner = planes[0], torch.zeros_like(planes[0], dtype=torch.uint8)
    second = torch.full_like(best, -math.inf)
    for number, values in enumerate(planes[1:], start=1):
        winner.masked_fill_(values > best, number)
        second = torch.maximum(second, torch.minimum(best, values))
        best = torch.maximum(best, values)
    return winner, best - second > ROUNDING * best.abs()


def _interpolate(
    labels: Tensor, values: Tensor, classes: Tensor, y: Tensor, x: Tensor, down: Axis, across: Axis
) -> None:
    """Writes the largest of K candidate `classes` [K, m] to the pixels of m cells with corner `values` [4, K, m].

    y, x [m] are the cells' rows and columns.
    """
    step = max(1, CHUNK // (down.share.shape[0] * across.share.shape[0]))
    width = labels.shape[1]
    for start in range(0, len(y), step):
        part = slice(start, start + step)
        rows, columns = y[part], x[part]
        vertical = down.share.index_select(1, rows)[:, None]  # [P, 1, m]
        horizontal = across.share.index_select(1, columns)  # [P, m]
        best = winner = None
        for corners, number in zip(values[:, :, part].unbind(1), classes[:, part], strict=True):
            above, below = (_between(corners[at], corners[at + 1], horizontal) for at in (0, 2))  # [P, m]
            value = _between(above[None], below[None], vertical)  # [P, P, m]
            if best is None or winner is None:
                best, winner = value, number
            else:
                winner = torch.where(value > best, number, winner)
                best = torch.maximum(best, value)
        assert winner is not None  # there is at least one class
        pixels = (down.pixels.index_select(1, rows) * width)[:, None] + across.pixels.index_select(1, columns)
        labels.view(-1).scatter_(0, pixels.view(-1), winner.expand(pixels.shape).reshape(-1))


def _between(before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    """Linear interpolation, with the order of operations of torch's upsampling, so that ties break as they do there."""
    return torch.addcmul(after * share, before, 1 - share)


def _axis(coarse: int, fine: int, device: torch.device) -> Axis:
    # Rounded to float32 in exactly these two places, as torch does.
    scale = np.float32(coarse) / np.float32(fine)
    position = ((np.arange(fine) + 0.5) * np.float64(scale) - 0.5).astype(np.float32)
    # Pixels before the first position and after the last form cells of their own, so that P stays small.
    cell, start, count = np.unique(np.floor(position).astype(np.int64), return_index=True, return_counts=True)
    before, after = cell.clip(min=0), (cell + 1).clip(max=coarse - 1)
    position = position.clip(min=0)
    first = position.astype(np.int64)
    pixels = start + np.minimum(np.arange(count.max())[:, None], count - 1)
    share = (position - first.astype(np.float32))[pixels]
    arrays = first, before, after, pixels, share
    return Axis(*(torch.from_numpy(array).to(device) for array in arrays))
