"""What a detector learns from another one's raw output, anchor by anchor: scores and boxes (knowledge distillation)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.errors import InputError
from det.boxes import RawDetections
from det.heads.pico import NUM_BINS
from det.model import Detector

CONFIDENT = 0.3
"""Boxes are learned where the teacher's best score is at least this, which is what a predictor shows by default."""
GAMMA = 2.0
"""Power of the scores' difference, as in the quality focal loss: without it the background's anchors would decide."""


class DistillLoss(nn.Module):
    """The student's scores and boxes against the teacher's at the same anchors, divided by the number of its objects.

    Scores of a softmax are compared by the Kullback-Leibler divergence over all anchors; sigmoid scores by the quality
    focal loss (arXiv 2006.04388), whose target is the teacher's score. Boxes are compared where the teacher is
    confident, weighted by its score: offsets by the smooth L1 loss, distributions of distances by their divergence.

    Arguments:
        score: what turns both models' logits into scores, "softmax" or "sigmoid".
        background: whether column 0 of the class logits is the background; else a softmax has logit 0 for it.
        distributions: whether boxes are distributions of distances, as the pico heads give them.
    """

    def __init__(self, score: str, *, background: bool, distributions: bool) -> None:
        super().__init__()
        self.score, self.background, self.distributions = score, background, distributions

    def forward(self, raw: RawDetections, teacher: RawDetections) -> dict[str, Tensor]:
        """The loss of a batch.

        Arguments:
            raw: of the student, class logits [N, A, K] and box offsets [N, A, 4], or [N, A, 4 * NUM_BINS] of
                distributions, of any float type.
            teacher: of the same images, anchors and classes; its gradients are not asked for.

        Returns:
            "distill_class_loss" and "distill_box_loss", float32 scalars, finite and not negative.
        """
        logits, wanted_logits = raw.class_logits.float(), teacher.class_logits.float().detach()
        if self.score == "softmax":
            if not self.background:
                logits, wanted_logits = (F.pad(columns, (1, 0)) for columns in (logits, wanted_logits))
            wanted = wanted_logits.log_softmax(dim=-1)
            class_losses = F.kl_div(logits.log_softmax(dim=-1), wanted, reduction="none", log_target=True)
            confidence = wanted[..., 1:].exp().amax(dim=-1)  # [N, A]
        else:
            wanted = wanted_logits.sigmoid()
            class_losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            class_losses = class_losses * (wanted - logits.sigmoid()).abs() ** GAMMA
            confidence = wanted.amax(dim=-1)
        weight = torch.where(confidence >= CONFIDENT, confidence, 0.0)
        total = weight.sum().clamp(min=1)
        box_losses = self._boxes(raw.box_offsets.float(), teacher.box_offsets.float().detach())
        return {
            "distill_class_loss": class_losses.sum() / total,
            "distill_box_loss": (box_losses * weight).sum() / total,
        }

    def _boxes(self, offsets: Tensor, wanted: Tensor) -> Tensor:
        """Box offsets [N, A, 4] or [N, A, 4 * NUM_BINS] of student and teacher -> losses [N, A]."""
        if not self.distributions:
            return F.smooth_l1_loss(offsets, wanted, reduction="none").sum(dim=-1)
        found, wanted = (values.unflatten(-1, (4, NUM_BINS)).log_softmax(dim=-1) for values in (offsets, wanted))
        return F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=-1).mean(dim=-1)


def make_distill_loss(
    student: Detector, teacher: Detector, *, kind: str, scores: tuple[str, str], source: str
) -> DistillLoss:
    """The loss by which a student learns from a teacher of the same classes.

    Arguments:
        kind: of the loss that trains the student; "aligned" is that of heads which give distributions.
        scores: what turns the logits of student and teacher into scores, "softmax" or "sigmoid".
        source: the teacher's file, to be named in errors.

    Raises:
        InputError: they have other anchors, or other scores.
    """
    size_hw = student.image_size_hw
    anchors, others = student.anchors_for(size_hw), teacher.anchors_for(size_hw)
    if anchors.shape != others.shape or not torch.allclose(anchors, others.to(anchors.device), atol=0.01):
        counts = f"{len(others)} and {len(anchors)} at {size_hw[0]}x{size_hw[1]}"
        raise InputError(
            f"teacher {source}: its anchors are not the student's ({counts}); "
            "both need the same kind of head (ssdlite, ssdlite_fpn or pico), variant and strides"
        )
    own, other = scores
    if own != other:
        cure = {"softmax": "softmax", "sigmoid": "focal or quality_focal"}[other]
        raise InputError(
            f"teacher {source}: gives {other} scores, the student {own} scores; train it with loss.kind={cure}"
        )
    return DistillLoss(own, background=student.background, distributions=kind == "aligned")
