"""Anchors: the boxes of fixed place, size and shape to which the predicted offsets are relative."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backbone.errors import InputError

# SSD: six scales, evenly from .2 to .95 of the image; the seventh only serves the last map's geometric mean.
NUM_MAPS = 6
SCALES = (*(0.2 + (0.95 - 0.2) * k / (NUM_MAPS - 1) for k in range(NUM_MAPS)), 1.0)


def _paper_shapes() -> list[list[tuple[float, float]]]:
    """(width, height) per map as fractions of the shorter side; table, order and digits of the official SSDLite."""
    shapes = []
    for scale, next_scale in itertools.pairwise(SCALES):
        pairs = [(scale, ratio) for ratio in (1.0, 2.0, 1 / 2, 3.0, 0.3333)] + [(math.sqrt(scale * next_scale), 1.0)]
        shapes.append(pairs)
    shapes[0] = [(0.1, 1.0), (SCALES[0], 2.0), (SCALES[0], 1 / 2)]
    return [[(scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for scale, ratio in pairs] for pairs in shapes]


def _torchvision_shapes() -> list[list[tuple[float, float]]]:
    """(width, height) per map as fractions of the image's width and height, at most 1, in torchvision's order."""
    shapes = []
    for scale, next_scale in itertools.pairwise(SCALES):
        between = math.sqrt(scale * next_scale)
        sizes = [(scale, scale), (between, between)]
        for ratio in (2, 3):
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sizes += [(long, short), (short, long)]
        shapes.append([(min(width, 1.0), min(height, 1.0)) for width, height in sizes])
    return shapes


def _paddle_shapes() -> list[list[tuple[float, float]]]:
    """(width, height) per map as fractions of the shorter side, in PaddleDetection's order; scales in whole percent."""
    shapes = []
    for number, (scale, next_scale) in enumerate(itertools.pairwise((0.1, 0.2, 0.38, 0.56, 0.74, 0.92, 1.1))):
        ratios = (1.0, 2.0, 1 / 2) if number == 0 else (1.0, 2.0, 1 / 2, 3.0, 1 / 3)
        between = math.sqrt(scale * next_scale)
        shapes.append([(scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for ratio in ratios] + [(between, between)])
    return shapes


# RetinaNet: on a map of stride s, squares of side 4s and half an octave larger, each also at aspect ratios 2 and 1/2.
PYRAMID_SCALES = (4.0, 4.0 * math.sqrt(2))
PYRAMID_RATIOS = (1.0, 2.0, 1 / 2)
SHAPES = {"paper": _paper_shapes(), "torchvision": _torchvision_shapes(), "paddle": _paddle_shapes()}


def _shapes(variant: str) -> list[list[tuple[float, float]]]:
    if variant not in SHAPES:
        raise InputError(f"variant {variant!r} is unknown; choose one of {', '.join(SHAPES)}")
    return SHAPES[variant]


def anchors_per_cell(variant: str) -> list[int]:
    """How many anchors each cell has, map by map: six, on the first map 3 for "paper" and 4 for "paddle"."""
    return [len(shapes) for shapes in _shapes(variant)]


def feature_sizes(image_size_hw: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) of the maps of these strides for an input of (height, width) pixels, whatever its padding."""
    height, width = image_size_hw
    return [(-(-height // stride), -(-width // stride)) for stride in strides]


def ssd_anchors(feature_sizes_hw: Sequence[tuple[int, int]], image_size_hw: tuple[int, int], variant: str) -> Tensor:
    """SSD's anchors over a network input.

    Arguments:
        feature_sizes_hw: (height, width) of the six maps in cells, finest first.
        image_size_hw: (height, width) of the network input in pixels.
        variant: "paper" (the official SSDLite: 2034 boxes at 320x320, squares stay square on any image, boxes may
            exceed the image), "torchvision" (3234 boxes, sizes relative to each side and at most that side) or
            "paddle" (2434 boxes, sizes relative to the shorter side, centers whole steps of pixels apart, boxes
            clipped to the image).

    Returns:
        float32 [A, 4], xyxy in pixels of the network input; map by map, cells row by row, then shapes.

    Raises:
        InputError: an unknown variant.
    """
    height, width = image_size_hw
    pixels = torch.tensor([width, height], dtype=torch.float32)
    unit = pixels if variant == "torchvision" else pixels.min()
    sides = [torch.tensor(shapes, dtype=torch.float32) * unit for shapes in _shapes(variant)]
    if variant == "paddle":
        boxes = _over_maps(feature_sizes_hw, image_size_hw, sides, whole_steps=True)
        return boxes.clamp(min=0).minimum(pixels.repeat(2))
    return _over_maps(feature_sizes_hw, image_size_hw, sides)


def pyramid_anchors(
    feature_sizes_hw: Sequence[tuple[int, int]], image_size_hw: tuple[int, int], strides: Sequence[int]
) -> Tensor:
    """RetinaNet's six anchors per cell, sized by the maps' strides.

    Arguments:
        feature_sizes_hw: (height, width) of the maps in cells, finest first.
        image_size_hw: (height, width) of the network input in pixels.
        strides: of the maps, in pixels.

    Returns:
        float32 [A, 4], xyxy in pixels of the network input; map by map, cells row by row, then shapes.
    """
    shapes = torch.tensor(
        [(scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for scale in PYRAMID_SCALES for ratio in PYRAMID_RATIOS]
    )
    return _over_maps(feature_sizes_hw, image_size_hw, [shapes * stride for stride in strides])


def _over_maps(
    feature_sizes_hw: Sequence[tuple[int, int]],
    image_size_hw: tuple[int, int],
    sides: Sequence[Tensor],
    whole_steps: bool = False,
) -> Tensor:
    """Boxes centered on every cell of each map, the cells spread evenly over the input.

    Arguments:
        image_size_hw: (height, width) of the network input in pixels.
        sides: for each map, (width, height) of its boxes in pixels, [shapes, 2].
        whole_steps: cells are a whole number of pixels apart, rounded up: 107 for three cells on 320.

    Returns:
        [A, 4], xyxy in pixels.
    """
    height, width = image_size_hw
    pixels = torch.tensor([width, height], dtype=torch.float32)
    boxes = []
    for (rows, columns), shapes in zip(feature_sizes_hw, sides, strict=True):
        across, down = float(columns), float(rows)  # how many cells the input is wide and high
        if whole_steps:
            across, down = width / math.ceil(width / columns), height / math.ceil(height / rows)
        x = (torch.arange(columns) + 0.5) / across
        y = (torch.arange(rows) + 0.5) / down
        y, x = torch.meshgrid(y, x, indexing="ij")
        centers = torch.stack([x, y], dim=-1).reshape(-1, 1, 2) * pixels
        boxes.append(torch.cat([centers - 0.5 * shapes, centers + 0.5 * shapes], dim=-1).reshape(-1, 4))
    return torch.cat(boxes)
