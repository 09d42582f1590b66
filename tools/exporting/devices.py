"""What the formats for phones and other devices share: their limits, their metadata, and images as planes."""

import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from backbone.errors import InputError
from det.model import Detector
from tools.exporting.graph import ImageGraph


def check_fits(graph: ImageGraph, format: str, outputs: Sequence[str] = ("final", "raw")) -> None:
    """Checks that a format can hold a graph.

    Arguments:
        format: its name, for the message.
        outputs: what it can give, as `tools.options.OUTPUTS`.

    Raises:
        InputError: the graph takes more than one size or number of images, or gives another output.
    """
    if graph.size_hw is None or graph.batch is None:
        raise InputError(f"format {format}: holds one size and one number of images; leave out --dynamic")
    output = graph.description["export"]["output"]
    if output not in outputs:
        raise InputError(f"format {format}: gives no {output} output of this model; give --output {outputs[0]}")


def device_metadata(graph: ImageGraph) -> str:
    """The graph's metadata, JSON, with two more keys in its `export` entry.

    `outputs` are the names of the outputs in order, as some formats number them only. For a detector's raw output,
    `anchors` [A, 4], xyxy in pixels of the input, are what its decoder needs.
    """
    written = json.loads(graph.metadata())
    entry = written["export"] | {"outputs": list(graph.names)}
    if isinstance(graph.network, Detector) and entry["output"] == "raw":
        assert graph.size_hw is not None  # a detector's never is
        anchors = graph.network.anchors_for(graph.size_hw)
        entry["anchors"] = [[round(value, 4) for value in box] for box in anchors.tolist()]
    return json.dumps(written | {"export": entry})


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
        assert self.batch is not None and self.size_hw is not None  # `check_fits` has seen to it
        return torch.export.export(self, (torch.zeros(self.batch, 3, *self.size_hw),))

