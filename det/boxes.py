"""Boxes as offsets from anchors, and back; where an image lies in the network input."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RESIZES = ("stretch", "letterbox")

# Faster R-CNN's coder, as the official SSDLite and torchvision use it: offsets of the centre count 10, of the size 5.
CENTER_WEIGHT = 10.0
SIZE_WEIGHT = 5.0
# A size offset beyond this would make a box over 62 times its anchor; exp() of more only overflows.
MAX_LOG_SCALE = math.log(1000 / 16)


class RawDetections(NamedTuple):
    """What the network says about every anchor."""

    class_logits: Tensor  # [N, A, K]
    box_offsets: Tensor  # [N, A, 4], as `encode` defines them


class Placement(NamedTuple):
    """The part of the network input that shows the image, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


def place(image_hw: Sequence[int], image_size_hw: tuple[int, int], resize: str) -> Placement:
    """Where an image of (height, width) lies in an input of `image_size_hw`.

    "stretch" is everywhere; "letterbox" keeps the image's proportions, to the pixel, and centres it.
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
    """Offsets `[..., 4]` (x, y, log width, log height, weighted) that take the anchors to the boxes.

    Both are xyxy in the same unit and broadcast against each other; boxes need positive width and height.
    """
    centers, sizes = _centers_and_sizes(boxes_xyxy)
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors_xyxy)
    shifts = CENTER_WEIGHT * (centers - anchor_centers) / anchor_sizes
    return torch.cat([shifts, SIZE_WEIGHT * torch.log(sizes / anchor_sizes)], dim=-1)


def decode(offsets: Tensor, anchors_xyxy: Tensor) -> Tensor:
    """Boxes `[..., 4]`, xyxy in the anchors' unit, for the offsets `[..., 4]` that `encode` defines."""
    anchor_centers, anchor_sizes = _centers_and_sizes(anchors_xyxy)
    centers = offsets[..., :2] / CENTER_WEIGHT * anchor_sizes + anchor_centers
    sizes = torch.exp((offsets[..., 2:] / SIZE_WEIGHT).clamp(max=MAX_LOG_SCALE)) * anchor_sizes
    return torch.cat([centers - 0.5 * sizes, centers + 0.5 * sizes], dim=-1)
