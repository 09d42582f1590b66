"""Losses of predicted boxes by their overlap with the wanted ones.

The values and gradients are those of torchvision's losses of the same names. Those select the overlapping boxes by a
mask, so that a GPU has to report their number in the middle of a step and no compiler can take the step as one graph;
here all boxes are computed.
"""

import math

import torch
from torch import Tensor

EPS = 1e-7
"""Added to what is divided by, as in torchvision."""


def giou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - generalized IoU (arXiv 1902.09630).

    Arguments:
        predicted, wanted: [..., 4], xyxy in one unit, of positive width and height.

    Returns:
        [...], 0 to 2.
    """
    common, union = _common_and_union(predicted, wanted)
    hull = _area(_hull_sides(predicted, wanted))
    return 1 - common / (union + EPS) + (hull - union) / (hull + EPS)


def diou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU + squared distance of the centers over the squared diagonal of the hull (arXiv 1911.08287).

    Arguments, result: as `giou_loss`.
    """
    return _diou_loss_and_iou(predicted, wanted)[0]


def ciou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """As `diou_loss`, plus a term for the difference in aspect ratio (arXiv 1911.08287), so up to 3."""
    diou, iou = _diou_loss_and_iou(predicted, wanted)
    angles = [torch.atan(sides[..., 0] / sides[..., 1]) for sides in (_sides(wanted), _sides(predicted))]
    difference = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    with torch.no_grad():
        weight = difference / (1 - iou + difference + EPS)
    return diou + weight * difference


def _diou_loss_and_iou(predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    common, union = _common_and_union(predicted, wanted)
    iou = common / (union + EPS)
    diagonal = _hull_sides(predicted, wanted).square().sum(dim=-1)
    centers = (predicted[..., :2] + predicted[..., 2:]) / 2, (wanted[..., :2] + wanted[..., 2:]) / 2
    distance = (centers[0] - centers[1]).square().sum(dim=-1)
    return 1 - iou + distance / (diagonal + EPS), iou


def _sides(boxes_xyxy: Tensor) -> Tensor:
    """Widths and heights [..., 2]."""
    return boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]


def _hull_sides(one: Tensor, other: Tensor) -> Tensor:
    """Width and height [..., 2] of the smallest boxes that hold both."""
    return torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])


def _common_and_union(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The areas [...] that boxes share, and that they cover together."""
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    common = _area(sides.clamp(min=0))
    return common, _area(_sides(one)) + _area(_sides(other)) - common


def _area(sides: Tensor) -> Tensor:
    """Width times height, [..., 2] -> [...]; the gradient of `prod` would ask the device for zeros."""
    return sides[..., 0] * sides[..., 1]
