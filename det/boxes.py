"""Box coding: boxes as offsets from anchors, and back; and where an image lies in the network input."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Faster R-CNN's box coder, as in the official SSDLite and torchvision: offsets of the center are weighted by 10, of the
# size by 5.
CENTER_WEIGHT = 10.0
SIZE_WEIGHT = 5.0
# Sizes are limited to 62.5 times the anchor's, as in Faster R-CNN: exp() of more overflows.
MAX_LOG_SCALE = math.log(1000 / 16)


class RawDetections(NamedTuple):
    """The network's output for every anchor."""

    class_logits: Tensor  # [N, A, K]
    box_offsets: Tensor  # [N, A, 4], as `encode` defines them


class DualDetections(NamedTuple):
    """The raw output of a head's two kinds of predictors, by how many cells may learn a box."""

    one_to_many: RawDetections
    one_to_one: RawDetections


class Placement(NamedTuple):
    """The part of the network input that the image fills, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


def place(image_hw: Sequence[int], image_size_hw: tuple[int, int], resize: str) -> Placement:
    """Where an image lies in the network input.

    Arguments:
        image_hw: (height, width) of the image in pixels.
        image_size_hw: (height, width) of the network input in pixels.
        resize: "stretch" fills the input; "letterbox" keeps the image's aspect ratio, to the pixel, and centers it.
    """
    height, width = image_size_hw
    if resize == "stretch":
        return Placement(0, 0, width, height)
    scale = min(height / image_hw[0], width / image_hw[1])
    shown_hw = [max(1, round(side * scale)) for side in image_hw]
    return Placement((width - shown_hw[1]) // 2, (height - shown_hw[0]) // 2, shown_hw[1], shown_hw[0])


def _centers_and_sizes(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    sizes = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return boxes_xyxy[..., :2] + 0.5 * sizes, sizes


def encode(boxes_xyxy: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """The weighted offsets [..., 4] (x, y, log width, log height) that lead from anchors to boxes.

    Arguments:
        boxes_xyxy: [..., 4], of positive width and height.
        anchors_xyxy: [..., 4], in the same unit; broadcast against the boxes.
    """
    centers, sizes = _centers_and_sizes(boxes_xyxy)
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors_xyxy)
    shifts = CENTER_WEIGHT * (centers - anchor_centers) / anchor_sizes
    return torch.cat([shifts, SIZE_WEIGHT * torch.log(sizes / anchor_sizes)], dim=-1)


def decode(offsets: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Boxes [..., 4], xyxy in the anchors' unit, from the offsets [..., 4] that `encode` defines."""
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors_xyxy)
    centers = offsets[..., :2] / CENTER_WEIGHT * anchor_sizes + anchor_centers
    sizes = torch.exp((offsets[..., 2:] / SIZE_WEIGHT).clamp(max=MAX_LOG_SCALE)) * anchor_sizes
    return torch.cat([centers - 0.5 * sizes, centers + 0.5 * sizes], dim=-1)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU [...] of xyxy boxes [..., 4], broadcast against each other; 0 where both are empty."""
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    common = sides.clamp(min=0).prod(dim=-1)
    areas = (one[..., 2:] - one[..., :2]).prod(dim=-1) + (other[..., 2:] - other[..., :2]).prod(dim=-1)
    return common / (areas - common).clamp(min=1e-9)
