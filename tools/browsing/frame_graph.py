"""A model as one graph from the pixels of a canvas to what the page shows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from backbone.errors import InputError
from backbone.weights.description import KEY, write_header
from det.model import Detector
from seg.model import Segmenter, upsample
from tools.exporting.graph import ImageGraph, image_graph

FREE_SIDE = (16, 8192)
"""Pixels that a side of a frame may have."""
TRACED_HW = (48, 80)
"""Size of the frame by which the graph is traced, in pixels."""


class FrameGraph(nn.Module):
    """A network of a fixed input size, with all that lies between it and frames of any size.

    Resizing rounds to bytes, as OpenCV's bilinear does, so that the network sees what it sees in Python.

    Arguments:
        graph: from the bytes RGB of the network's input to logits, or to a detector's final output.

    Attributes:
        names: of the outputs, in order: `labels`, uint8 [H, W], at the frame's size; or `boxes`, float32 [1, D, 4] in
            pixels of the network's input, `scores` [1, D] and `labels` [1, D].
    """

    def __init__(self, graph: ImageGraph) -> None:
        super().__init__()
        assert graph.size_hw is not None
        self.inner, self.size_hw = graph, graph.size_hw
        self.segments = graph.names == ("logits",)
        self.names = ("labels",) if self.segments else graph.names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """A frame as a canvas gives it, uint8 RGBA [H, W, 4] -> the outputs in the order of `names`."""
        frame = image[..., :3].permute(2, 0, 1)[None].float()
        values = F.interpolate(frame, size=self.size_hw, mode="bilinear", align_corners=False)
        values = (values + 0.5).floor() - self.inner.shift.view(1, 3, 1, 1)
        raw = self.inner.network(values)
        if self.segments:
            return (upsample(raw, image.shape[:2]).argmax(1).to(torch.uint8)[0],)
        return tuple(self.inner.finish(raw, values))

    def program(self) -> ExportedProgram:
        """The graph by torch.export."""
        example = torch.zeros(*TRACED_HW, 4, dtype=torch.uint8)
        low, high = FREE_SIDE
        sides = {0: Dim("height", min=low, max=high), 1: Dim("width", min=low, max=high)}
        return torch.export.export(self, (example,), dynamic_shapes={"image": sides})

    def metadata(self) -> str:
        """The model's description, as files of other formats hold it."""
        return write_header(self.inner.description)[KEY]


def frame_graph(
    model: nn.Module, description: Mapping[str, Any], size_hw: tuple[int, int] | None, score_threshold: float
) -> FrameGraph:
    """The graph of a segmenter or a detector.

    Arguments:
        size_hw: (height, width) of the network's input in pixels; None for a detector's own.
        score_threshold: a detector's boxes score above it.

    Raises:
        InputError: the model has no such graph.
    """
    if isinstance(model, Detector):
        if model.resize != "stretch":
            raise InputError("a detector whose pictures are letterboxed does not run in the page; train with stretch")
        graph = image_graph(
            model, description, output="final", channels="rgb", size_hw=size_hw, score_threshold=score_threshold
        )
    elif isinstance(model, Segmenter):
        graph = image_graph(model, description, output="raw", channels="rgb", size_hw=size_hw)
    else:
        raise InputError("the page shows segmenters and detectors; this model is neither")
    return FrameGraph(graph.eval()).eval()
