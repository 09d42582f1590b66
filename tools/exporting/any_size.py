"""Graphs that hold for images of any size: the sizes that they take, and a segmenter without Python's arithmetic."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from backbone.errors import InputError
from backbone.network import Network
from seg.heads.lraspp import LRASPPHead, MergingLRASPPHead
from seg.model import Segmenter
from seg.resizing import resize

LEAST_SIDE, MOST_SIDE = 64, 4096
"""Limits of an image's side, in pixels. Below, the deepest map would have one cell, which torch.export sets apart."""


SAME_MULTIPLE = 32
"""Of sides in pixels, for padding "same": how much is padded then does not depend on the side."""


def multiple_of(model: nn.Module) -> int:
    """The number of pixels that the sides of an input must be multiples of, in one graph for all sizes.

    Raises:
        InputError: there is no such graph.
    """
    network = model if isinstance(model, Network) else model.backbone
    assert isinstance(network, Network)
    multiple = SAME_MULTIPLE if network.padding == "same" else 1
    if isinstance(model, Segmenter):
        if model.align_corners:
            raise InputError("a model with aligned corners pads each size in its own way; give --size, not --dynamic")
        if isinstance(model.head, MergingLRASPPHead) and model.head.window is not None:
            raise InputError("windows of variant paddle are cut for each size in its own way; give --size")
        multiple = max(multiple, model.head.multiple)
    return multiple


def free_side(name: str, multiple: int) -> Any:
    """A side of an input for torch.export: any multiple of a number of pixels within the limits."""
    if multiple == 1:
        return Dim(name, min=LEAST_SIDE, max=MOST_SIDE)
    return multiple * Dim(f"{name}_cells", min=LEAST_SIDE // multiple, max=MOST_SIDE // multiple)


class AnySizeSegmenter(nn.Module):
    """A segmenter for images whose sides are multiples of `multiple_of` it: it neither pads them nor cuts the logits.

    Arguments:
        model: its parts are taken over.
    """

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.backbone, self.head, self.taps = model.backbone, model.head, model.taps
        if isinstance(model.head, LRASPPHead) and model.head.window is not None:
            self.head = AnySizeLRASPPHead(model.head, MOST_SIDE // model.coarsest)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] -> logits [N, num_classes, ceil(H/stride), ceil(W/stride)]."""
        features = self.backbone(images)
        return self.head(*(features[tap] for tap in self.taps))


class AnySizeLRASPPHead(nn.Module):
    """An LR-ASPP head with windows that are cut to the map's size, as `LRASPPHead`, for maps of every size.

    Pooling and the gate's resizing are products with small matrices: a window of a size that depends on the map's is no
    operator of the runtimes. There are as many windows as the largest map has; those that a map lacks have no weight.

    Arguments:
        head: its layers are taken over; its `window` is not None.
        most: the largest side of the deepest map, in its cells.
    """

    def __init__(self, head: LRASPPHead, most: int) -> None:
        super().__init__()
        assert head.window is not None  # a mean over the whole map holds for every size already
        self.head = head
        size, strides = head.window
        self.down, self.across = (Windows(size, stride, (most - size) // stride + 1) for stride in strides)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low [N, C, H/8, W/8], high [N, C', H/s, W/s] -> logits [N, num_classes, H/8, W/8]."""
        head = self.head
        height, width = high.shape[-2:]
        pooled = self.down.averages(height) @ high @ self.across.averages(width).T  # [N, C', windows, windows]
        gate = head.squash(head.gate(pooled))
        gate = self.down.spread(height).T @ gate @ self.across.spread(width)  # [N, F, H/s, W/s]
        logits = head.classify_high(head.project(high) * gate)
        return head.classify_low(low) + resize(logits, low.shape[-2:], align_corners=head.align_corners)


class Windows(NamedTuple):
    """The windows along one side of a map, in cells; where the side is shorter than a window, there is one of it."""

    size: int
    stride: int
    most: int  # how many there are on the longest side

    def averages(self, side: int) -> Tensor:
        """The share of every cell in the mean of each window, [most, side]; 0 for windows that begin past the side."""
        cell, start = torch.arange(side), torch.arange(self.most)[:, None] * self.stride
        inside = ((cell >= start) & (cell < start + self.size)).float()
        return inside / inside.sum(1, keepdim=True).clamp(min=1)

    def spread(self, side: int) -> Tensor:
        """The share of each window in every cell by linear interpolation with aligned corners, [most, side]."""
        cell = torch.arange(side).float()
        last_cell = cell.amax(0)  # as a tensor: the runtimes' converters know no arithmetic on sizes
        last_window = ((last_cell + 1 - self.size) / self.stride).floor().clamp(min=0)
        place = cell * (last_window / last_cell.clamp(min=1))
        return (1 - (place - torch.arange(self.most)[:, None]).abs()).clamp(min=0)
