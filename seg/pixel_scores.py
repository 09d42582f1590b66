"""The terms of a softmax loss at every pixel, from coarse logits, without ever storing the full-size logits.

The logits are resized and reduced strip by strip, and resized again in the backward pass. On a CPU a strip fits into
the cache: with 19 classes at 512x512 forward and backward take half the time of resizing and `F.cross_entropy`.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

STRIP = 160_000
"""Values in a strip on a CPU; on a GPU a strip is a whole image."""


def pixel_scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log-sum-exp of the logits at every pixel, and the logit of its label; the logits resized by `upsample`.

    Their difference is the negative log-likelihood of the label.

    Arguments:
        logits: [N, C, h, w].
        labels: integers [N, H, W], 0..C-1; ignored pixels need one too, whichever.

    Returns:
        Two float32 tensors [N, H, W].
    """
    return _PixelScores.apply(logits.float().contiguous(), labels.long())


class _PixelScores(Function):
    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        down, across = (_resizing(*sides, logits) for sides in zip(logits.shape[-2:], labels.shape[-2:], strict=True))
        log_sums, chosen = (logits.new_empty(labels.shape) for _ in range(2))
        for number, rows in _strips(logits, labels):
            fine = _resize(logits[number], down[rows], across)  # [C, rows, W]
            torch.gather(fine, 0, labels[number, rows][None], out=chosen[number, rows][None])
            largest = fine.amax(0)
            log_sums[number, rows] = fine.sub_(largest).exp_().sum(0).log_().add_(largest)
        ctx.save_for_backward(logits, labels, log_sums, down, across)
        return log_sums, chosen

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        by_sum, by_chosen = grad_outputs
        logits, labels, log_sums, down, across = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        for number, rows in _strips(logits, labels):
            fine = _resize(logits[number], down[rows], across)
            fine.sub_(log_sums[number, rows]).exp_().mul_(by_sum[number, rows])
            fine.scatter_add_(0, labels[number, rows][None], by_chosen[number, rows][None])
            classes, count, width = fine.shape
            coarse = (fine.view(-1, width) @ across).view(classes, count, -1)
            gradient[number] += torch.matmul(down[rows].t(), coarse)
        return gradient, None


def _strips(logits: Tensor, labels: Tensor) -> list[tuple[int, slice]]:
    """Indices of images and slices of rows that together cover a batch."""
    height, width = labels.shape[-2:]
    count = max(1, STRIP // (logits.shape[1] * width)) if logits.device.type == "cpu" else height
    return [(number, slice(top, top + count)) for number in range(len(labels)) for top in range(0, height, count)]


def _resize(logits: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Logits [C, h, w] and interpolation weights [rows, h] and [W, w] -> [C, rows, W]."""
    rows = torch.matmul(down, logits)  # [C, rows, w]
    return (rows.flatten(0, 1) @ across.t()).view(*rows.shape[:2], -1)


def _resizing(coarse: int, fine: int, like: Tensor) -> Tensor:
    """Interpolation weights [fine, coarse] with half-pixel centers, of the type and device of `like`."""
    position = (torch.arange(fine, dtype=like.dtype, device=like.device) + 0.5) * (coarse / fine) - 0.5
    position = position.clamp(min=0)
    first = position.long()
    share = (position - first)[:, None]
    weights = like.new_zeros(fine, coarse).scatter_(1, first[:, None], 1 - share)
    return weights.scatter_add_(1, (first + 1).clamp(max=coarse - 1)[:, None], share)
