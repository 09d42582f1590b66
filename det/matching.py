"""Matching: which ground-truth box each anchor is trained on, and which anchors lie in a crowd, batch by batch."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou


class Targets(NamedTuple):
    """Ground truth of a batch, padded to the same number G >= 1 of boxes per image."""

    boxes: Tensor  # [N, G, 4] float32, xyxy in pixels of the network input; anything finite where not valid
    labels: Tensor  # [N, G] int64, contiguous object classes from 0
    valid: Tensor  # [N, G] bool, False for padding and crowds
    crowd: Tensor  # [N, G] bool, boxes around groups of objects that are not annotated one by one


def match(anchors: Tensor, targets: Targets, iou_threshold: float = 0.5) -> Tensor:
    """The index of every anchor's ground-truth box in 0..G-1, or -1 for background: int64 [N, A].

    An anchor is matched to the box it overlaps most if their IoU reaches the threshold. In addition every box is
    matched to the anchor that overlaps it most, whatever their IoU; if several boxes claim one anchor the last wins, as
    in torchvision on a CPU.

    All shapes are fixed and everything stays on the device: no loop over images, no synchronisation, one graph.

    Arguments:
        anchors: [A, 4], xyxy in pixels of the network input.
        targets: boxes [N, G, 4] in the same pixels.
        iou_threshold: 0 to 1.
    """
    batch, num_boxes = targets.valid.shape
    iou = box_iou(targets.boxes.reshape(-1, 4), anchors).reshape(batch, num_boxes, -1)
    iou = torch.where(targets.valid[..., None], iou, -1.0)
    best_iou, best_box = iou.max(dim=1)
    matched = torch.where(best_iou >= iou_threshold, best_box, -1)

    best_anchor = iou.argmax(dim=2)
    box_index = torch.arange(num_boxes, device=iou.device).expand(batch, -1)
    # The maximum over indices makes the last box win on every device; a plain scatter's order is undefined.
    forced = torch.full_like(matched, -1).scatter_reduce(
        1, best_anchor, torch.where(targets.valid, box_index, -1), reduce="amax"
    )
    return torch.where(forced >= 0, forced, matched)


def without_flat(targets: Targets) -> Targets:
    """Targets in which a box without a size, which no offsets lead to, counts as padding."""
    sized = (targets.boxes[..., 2:] > targets.boxes[..., :2]).all(dim=-1)
    return targets._replace(valid=targets.valid & sized)


def in_crowd(anchors: Tensor, targets: Targets) -> Tensor:
    """Anchors whose center, or more than half of whose area, lies in a crowd's box: bool [N, A].

    Such an anchor may well show an object, so it must not be trained as background. Shapes are fixed as in `match`.

    Arguments:
        anchors: [A, 4], xyxy in pixels of the network input.
        targets: boxes [N, G, 4] in the same pixels.
    """
    crowds = targets.boxes[:, :, None]  # [N, G, 1, 4] against anchors [A, 4]
    overlaps = torch.minimum(crowds[..., 2:], anchors[:, 2:]) - torch.maximum(crowds[..., :2], anchors[:, :2])
    covered = overlaps.clamp(min=0).prod(dim=-1) > 0.5 * (anchors[:, 2:] - anchors[:, :2]).prod(dim=-1)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    centered = ((centers > crowds[..., :2]) & (centers < crowds[..., 2:])).all(dim=-1)
    return ((covered | centered) & targets.crowd[..., None]).any(dim=1)
