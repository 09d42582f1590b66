"""Losses of segmentation: coarse logits [N, C, h, w] and full-size labels [N, H, W] -> a float32 scalar.

Labels are integers 0..C-1, and 255 for pixels that are ignored. Logits, of any float type, are resized bilinearly to
the labels' size. Where every pixel is ignored the loss is 0 with zero gradients. No loss synchronises with the GPU,
except `lovasz` and `focal`, whose library indexes pixels by a mask.
"""

import math
from collections.abc import Callable, Sequence

import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from seg.data.dataset import IGNORE
from seg.pixel_scores import pixel_scores
from seg.resizing import upsample


def cross_entropy(
    logits: Tensor, labels: Tensor, *, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over the pixels that are not ignored, weighted by class, as `F.cross_entropy` defines it.

    Arguments:
        logits: [N, C, h, w].
        labels: [N, H, W].
        class_weights: C factors, one for each class; by default all 1.
        label_smoothing: the share of the target distribution that is spread over all classes, 0 to 1.

    Returns:
        A float32 scalar.
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
    """Mean cross-entropy over hard pixels only (online hard example mining), weighted by class.

    A pixel is hard if its label has a probability below `threshold`, or if it is among the `min_kept` pixels of the
    batch with the largest loss, ties included. Under several processes each looks at its own share of the batch.

    Arguments:
        logits: [N, C, h, w].
        labels: [N, H, W].
        threshold: a probability, 0 to 1.
        min_kept: pixels.
        class_weights: C factors, one for each class; by default all 1.

    Returns:
        A float32 scalar.
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
    """One minus the Dice coefficient, averaged over the classes present: logits [N, C, h, w], labels [N, H, W]."""
    return _by_library(smp.losses.DiceLoss("multiclass", ignore_index=IGNORE), logits, labels)


def jaccard(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the soft intersection over union, averaged over all C classes, absent ones counting 0.

    logits [N, C, h, w], labels [N, H, W] -> a scalar.
    """
    return _by_library(smp.losses.JaccardLoss("multiclass", ignore_index=IGNORE), logits, labels)


def lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovász extension of one minus the intersection over union (arXiv 1705.08790), over the classes present.

    The whole batch counts as one image: logits [N, C, h, w], labels [N, H, W] -> a scalar.
    """
    return _by_library(smp.losses.LovaszLoss("multiclass", ignore_index=IGNORE), logits, labels)


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002) of each class against the others, averaged over classes and pixels.

    Arguments:
        logits: [N, C, h, w].
        labels: [N, H, W].
        gamma: how strongly pixels that are already right are down-weighted; 0 is plain cross-entropy.

    Returns:
        A scalar.
    """
    return _by_library(smp.losses.FocalLoss("multiclass", gamma=gamma, ignore_index=IGNORE), logits, labels)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "dice": dice,
    "jaccard": jaccard,
    "lovasz": lovasz,
    "focal": focal,
}
"""The losses that an experiment can weigh and add; `seg.options.LOSSES` are their names."""


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weights of classes from their numbers of pixels: 1 / ln(1.02 + share), 1.4 to 50.5 (ENet, arXiv 1606.02147)."""
    total = max(1, sum(counts))
    return [1 / math.log(1.02 + count / total) for count in counts]


def _by_library(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """A loss of segmentation-models-pytorch; 0 where every pixel is ignored, which there gives NaN or no scalar."""
    labels = labels.long()
    some = (labels != IGNORE).any()
    labels = torch.where(some, labels, torch.zeros_like(labels))
    return loss(upsample(logits, labels.shape[-2:]).float(), labels) * some


def _or_one(total: Tensor) -> Tensor:
    """A sum of weights, as a divisor: 1 where it is 0."""
    return torch.where(total > 0, total, torch.ones_like(total))
