"""Task-aligned training of anchor-free heads: who is trained on which box follows from what is predicted.

The assignment is TOOD's (arXiv 2108.07755), the loss of scores VarifocalNet's (arXiv 2008.13367), that of distances
Generalized Focal Loss' (arXiv 2006.04388). The whole batch is assigned at once: shapes are fixed, nothing waits for the
device, no loop over images.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.errors import InputError
from det.boxes import RawDetections, iou
from det.heads.pico import NUM_BINS, boxes_from_distances, distances, distances_to
from det.loss import IOU_LOSSES
from det.matching import Targets, in_crowd, without_flat

TOP_CELLS = 13
TOP_CELLS_ONE_TO_ONE = 7
"""Candidates for a box's one cell: more than one, as other boxes may win some of them."""
QUALITY_POWER = 6
SMALLEST_REACH = 16.0
"""Pixels. A cell may learn a box that holds its center; narrower boxes count as so wide, or no cell might."""


class Assignment(NamedTuple):
    """What each cell of a batch is trained on."""

    box: Tensor  # [N, A] int64, index of the ground-truth box in 0..G-1; 0 where not positive
    positive: Tensor  # [N, A] bool
    quality: Tensor  # [N, A] float32, the score to be learnt, 0 where not positive


def assign(scores: Tensor, boxes: Tensor, cells: Tensor, targets: Targets, *, one_to_one: bool = False) -> Assignment:
    """Each box is learnt by the cells that predict it best: the `TOP_CELLS` of largest score times IoU^6 around it.

    A cell that several boxes claim learns the one that its own box overlaps most. The score it is to reach is its
    alignment (score times IoU^6) as a share of the best one for that box, times the best IoU of that box.

    Arguments:
        scores: [N, A, K], 0 to 1.
        boxes: predicted, [N, A, 4], xyxy in pixels.
        cells: [A, 4], xyxy in pixels.
        targets: boxes [N, G, 4] in the same pixels.
        one_to_one: each box claims `TOP_CELLS_ONE_TO_ONE` cells, and is learnt only by the best aligned of those that
            are left to it (YOLOv10, arXiv 2405.14458).
    """
    centers = (cells[:, :2] + cells[:, 2:]) / 2
    middle = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    reach = (targets.boxes[..., 2:] - targets.boxes[..., :2]).clamp(min=SMALLEST_REACH) / 2
    inside = ((centers - middle[:, :, None]).abs() < reach[:, :, None]).all(dim=-1)  # [N, G, A]
    allowed = inside & targets.valid[..., None]

    overlap = iou(targets.boxes[:, :, None], boxes[:, None])  # [N, G, A]
    labels = targets.labels[..., None].expand(-1, -1, scores.shape[1])
    alignment = scores.transpose(1, 2).gather(1, labels) * overlap**QUALITY_POWER
    ranked = torch.where(allowed, alignment, -1.0)
    most = TOP_CELLS_ONE_TO_ONE if one_to_one else TOP_CELLS
    best = ranked.topk(min(most, ranked.shape[2]), dim=2).indices
    claimed = torch.zeros_like(allowed).scatter(2, best, True) & allowed

    box = torch.where(claimed, overlap, -1.0).argmax(dim=1)  # [N, A]
    own = claimed & (torch.arange(claimed.shape[1], device=box.device)[:, None] == box[:, None])  # [N, G, A]
    if one_to_one:
        winner = torch.where(own, alignment, -1.0).argmax(dim=2, keepdim=True)
        own = own & torch.zeros_like(own).scatter(2, winner, True)
    positive = own.any(dim=1)
    alignment = torch.where(own, alignment, 0.0)
    best_overlap = torch.where(own, overlap, 0.0).amax(dim=2, keepdim=True)
    quality = alignment / alignment.amax(dim=2, keepdim=True).clamp(min=1e-9) * best_overlap
    return Assignment(torch.where(positive, box, 0), positive, quality.sum(dim=1))


class AlignedLoss(nn.Module):
    """Scores (varifocal), boxes (an IoU loss) and distances (distribution focal), divided by the sum of qualities.

    Cells in a crowd (`det.matching.in_crowd`) that learn no box are ignored.

    Arguments:
        box: "giou", "diou" or "ciou".
        box_weight: factor of the boxes' loss.
        distance_weight: factor of the distances' loss.
        alpha, gamma: weight and focusing power of cells that learn no box.
        one_to_one: each box is learnt by one cell.

    Raises:
        InputError: an unknown box loss.
    """

    def __init__(
        self,
        box: str = "giou",
        box_weight: float = 2.5,
        distance_weight: float = 0.5,
        alpha: float = 0.75,
        gamma: float = 2.0,
        one_to_one: bool = False,
    ) -> None:
        super().__init__()
        self.one_to_one = one_to_one
        self.kind = "aligned"
        if box not in IOU_LOSSES:
            raise InputError(f"box loss {box!r} does not fit loss kind aligned; choose one of {', '.join(IOU_LOSSES)}")
        self.box, self.box_weight, self.distance_weight = box, box_weight, distance_weight
        self.alpha, self.gamma = alpha, gamma

    def forward(self, raw: RawDetections, anchors: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The loss of a batch.

        Arguments:
            raw: class logits [N, A, K] and logits of distances [N, A, 4 * NUM_BINS], of any float type.
            anchors: the cells [A, 4], xyxy in pixels of the network input.
            targets: ground truth, boxes [N, G, 4] in the same pixels.

        Returns:
            "class_loss", "box_loss" and "distance_loss", float32 scalars whose sum is the loss; finite and not negative
            for any batch.
        """
        logits, offsets = raw.class_logits.float(), raw.box_offsets.float()
        targets = without_flat(targets)
        boxes = boxes_from_distances(distances(offsets), anchors)
        with torch.no_grad():
            assigned = assign(logits.sigmoid(), boxes, anchors, targets, one_to_one=self.one_to_one)
            total = assigned.quality.sum().clamp(min=1)
            counted = assigned.positive | ~in_crowd(anchors, targets)
        labels = targets.labels.gather(1, assigned.box)
        wanted_boxes = targets.boxes.gather(1, assigned.box[..., None].expand(-1, -1, 4))
        # Cells without a box get themselves as target: a padding box may be empty, whose gradients are NaN.
        wanted_boxes = torch.where(assigned.positive[..., None], wanted_boxes, anchors)

        classes = torch.arange(logits.shape[-1], device=logits.device)
        score = torch.where(labels[..., None] == classes, assigned.quality[..., None], 0.0)  # [N, A, K]
        with torch.no_grad():
            weight = torch.where(score > 0, score, self.alpha * logits.sigmoid() ** self.gamma)
            weight = torch.where(counted[..., None], weight, 0.0)
        class_loss = F.binary_cross_entropy_with_logits(logits, score, weight, reduction="sum") / total

        box_losses = IOU_LOSSES[self.box](boxes, wanted_boxes)
        distance_losses = _distance_losses(offsets, distances_to(wanted_boxes, anchors))
        return {
            "class_loss": class_loss,
            "box_loss": self.box_weight * (box_losses * assigned.quality).sum() / total,
            "distance_loss": self.distance_weight * (distance_losses * assigned.quality).sum() / total,
        }


def _distance_losses(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy with the two whole numbers around each wanted distance, by nearness; the mean over the four sides.

    Logits [N, A, 4 * NUM_BINS] and distances [N, A, 4] in strides -> [N, A].
    """
    wanted = wanted.clamp(0, NUM_BINS - 1.01)
    below = wanted.floor()
    share_above = wanted - below
    shares = logits.unflatten(-1, (4, NUM_BINS)).log_softmax(dim=-1)
    below = below.long()[..., None]
    lower, upper = shares.gather(-1, below)[..., 0], shares.gather(-1, below + 1)[..., 0]
    return -((1 - share_above) * lower + share_above * upper).mean(dim=-1)
