"""Losses on coarse logits [N, C, h, w] and full-size labels [N, H, W], integers 0..C-1.

Logits are resized bilinearly to the labels. Pixels labelled 255 do not count, and where none counts a loss is 0 with
zero gradients. No loss waits for a GPU, except `lovasz` and `focal`, whose library picks pixels by number.
"""

import math
from collections.abc import Callable, Sequence

import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from seg.data.dataset import IGNORE
from seg.heads.lraspp import upsample
from seg.pixel_scores import pixel_scores


def cross_entropy(
    logits: Tensor, labels: Tensor, *, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over the pixels that count, weighted by class, as torch defines it.

    Arguments:
        class_weights: one for each class.
        label_smoothing: the share of the target that is spread over all classes.
    """
    valid = labels != IGNORE
    by_class = torch.ones(logits.shape[1], device=logits.device)
    if class_weights is not None:
        by_class = by_class.new_tensor(class_weights)
    labels = labels.long() * valid
    log_sums, chosen = pixel_scores(logits, labels)
    weights = by_class[labels] * valid
    total = ((log_sums - chosen) * weights).sum()
    if label_smoothing:
        weighted = (logits.float() * by_class.view(-1, 1, 1)).sum(1, keepdim=True)  # resizing and summing commute
        spread = (log_sums * by_class.sum() - upsample(weighted, labels.shape[-2:])[:, 0]) * valid
        total = (1 - label_smoothing) * total + label_smoothing / logits.shape[1] * spread.sum()
    return total / _or_one(weights.sum())


def ohem(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: int = 130_000,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """Cross-entropy over hard pixels only (online hard example mining), weighted by class.

    Hard are those whose label has a probability below `threshold`, and in any case the `min_kept` hardest of the
    batch (of a process's share of it), with those that equal the last of them.
    """
    valid = labels != IGNORE
    labels = labels.long() * valid
    log_sums, chosen = pixel_scores(logits, labels)
    losses = log_sums - chosen
    with torch.no_grad():
        ranked = losses.masked_fill(~valid, -1.0).flatten()  # a loss is never negative
        kept = losses > -math.log(threshold)
        if min_kept:
            rank = max(1, ranked.numel() - min_kept + 1)
            kept |= losses >= ranked.kthvalue(rank).values
        kept &= valid
        weights = kept.float()
        if class_weights is not None:
            weights = weights * weights.new_tensor(class_weights)[labels]
    return (losses * weights).sum() / _or_one(weights.sum())


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the Dice coefficient, averaged over the classes present."""
    return _by_library(smp.losses.DiceLoss("multiclass", ignore_index=IGNORE), logits, labels)


def jaccard(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the soft intersection over union, averaged over all classes, absent ones counting 0."""
    return _by_library(smp.losses.JaccardLoss("multiclass", ignore_index=IGNORE), logits, labels)


def lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovász extension of one minus the intersection over union, over the batch and the classes present."""
    return _by_library(smp.losses.LovaszLoss("multiclass", ignore_index=IGNORE), logits, labels)


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss of each class against the others, averaged over classes and pixels."""
    return _by_library(smp.losses.FocalLoss("multiclass", gamma=gamma, ignore_index=IGNORE), logits, labels)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "dice": dice,
    "jaccard": jaccard,
    "lovasz": lovasz,
    "focal": focal,
}
"""The losses that an experiment can weigh and add, by name."""


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weights of classes from their pixels: 1 / ln(1.02 + share), between 1.4 and 50 (ENet, arXiv 1606.02147)."""
    total = max(1, sum(counts))
    return [1 / math.log(1.02 + count / total) for count in counts]


def _by_library(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """A loss of segmentation-models-pytorch, which gives NaN or no scalar where no pixel counts: there it is 0."""
    labels = labels.long()
    some = (labels != IGNORE).any()
    labels = torch.where(some, labels, torch.zeros_like(labels))
    return loss(upsample(logits, labels.shape[-2:]).float(), labels) * some


def _or_one(total: Tensor) -> Tensor:
    """A sum of weights to divide by; 1 where it is 0."""
    return torch.where(total > 0, total, torch.ones_like(total))
