"""What the formats for phones and other devices share: metadata for decoders, and images as planes."""

import json

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from det.model import Detector
from tools.exporting.graph import ImageGraph


def device_metadata(graph: ImageGraph) -> str:
    """The graph's metadata, JSON; for a detector's raw output with one more key in its `export` entry.

    `anchors` [A, 4], xyxy in pixels of the input, are what a decoder needs.
    """
    written = json.loads(graph.metadata())
    if isinstance(graph.network, Detector) and written["export"]["output"] == "raw":
        assert graph.size_hw is not None  # a detector's never is
        anchors = graph.network.anchors_for(graph.size_hw)
        written["export"]["anchors"] = [[round(value, 4) for value in box] for box in anchors.tolist()]
    return json.dumps(written)


class PlanarGraph(nn.Module):
    """A graph for formats whose images are planes of floats: the same network and outputs, another input.

    Arguments:
        graph: takes one size.
    """

    shift: Tensor

    def __init__(self, graph: ImageGraph) -> None:
        super().__init__()
        self.network, self.finish = graph.network, graph.finish
        self.batch, self.size_hw = graph.batch, graph.size_hw
        self.register_buffer("shift", graph.shift.view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images float32 [N, 3, H, W], 0 to 255 -> the graph's outputs."""
        return tuple(self.finish(self.network(image - self.shift), image.permute(0, 2, 3, 1)))

    def program(self) -> ExportedProgram:
        """The graph by torch.export."""
        assert self.batch is not None and self.size_hw is not None  # these formats hold one size
        return torch.export.export(self, (torch.zeros(self.batch, 3, *self.size_hw),))
