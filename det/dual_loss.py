"""The loss of a head with one-to-many and one-to-one predictors (consistent dual assignment, arXiv 2405.14458)."""

import torch
from torch import Tensor, nn

from det.aligned_loss import AlignedLoss
from det.boxes import DualDetections
from det.matching import Targets

FIRST_SHARE, LAST_SHARE = 0.8, 0.1
"""The one-to-many loss's share of the sum in the first and in the last step; the one-to-one loss has the rest."""


class DualLoss(nn.Module):
    """Task-aligned losses of both sets of predictors, whose shares change in the course of a training.

    Many cells that learn a box train backbone and neck well, so their share is large at first; the one-to-one
    predictors, which do not train the neck, follow it.

    Arguments:
        one_to_many, one_to_one: the losses of the two sets.
    """

    share: Tensor

    def __init__(self, one_to_many: AlignedLoss, one_to_one: AlignedLoss) -> None:
        super().__init__()
        self.kind = one_to_many.kind
        self.one_to_many, self.one_to_one = one_to_many, one_to_one
        # A tensor, as a compiled step would be compiled anew for each other number.
        self.register_buffer("share", torch.tensor(FIRST_SHARE), persistent=False)

    def set_progress(self, done: float) -> None:
        """Sets the shares for a point of the training: 0 for its first step, 1 for its last."""
        self.share.fill_(FIRST_SHARE + (LAST_SHARE - FIRST_SHARE) * done)

    def forward(self, raw: DualDetections, anchors: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The loss of a batch; arguments and terms are `AlignedLoss`'s, those of the one-to-one set named "one_…"."""
        many = self.one_to_many(raw.one_to_many, anchors, targets)
        one = self.one_to_one(raw.one_to_one, anchors, targets)
        terms = {name: self.share * loss for name, loss in many.items()}
        return terms | {f"one_{name}": (1 - self.share) * loss for name, loss in one.items()}
