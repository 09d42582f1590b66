"""ExecuTorch's files, .pte: computed by XNNPACK on the processors of phones and computers.

The metadata is what the file's method `KEY` returns, a text. The outputs have numbers only; their names are the
metadata's `outputs`.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from backbone.weights.description import KEY
from det.heads.ssdlite_fpn import SharedLayer
from tools.exporting.devices import device_metadata
from tools.exporting.graph import ImageGraph
from tools.io.packages import require

CURE = "it has an environment of its own: pip install executorch, then pip install --no-deps 'omegaconf>=2.4'"
"""hydra-core, which executorch needs for language models only, asks for an older omegaconf than we do."""


def check_executorch_installed() -> None:
    """Raises an InputError that says what to install where the package is missing."""
    require("format executorch", ("executorch",), CURE)


def write_executorch(graph: ImageGraph, path: Path) -> None:
    """Writes a graph as one file, weights inside.

    Raises:
        InputError: the package is missing.
    """
    check_executorch_installed()
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]
    from executorch.exir import to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

    lowered = to_edge_transform_and_lower(
        without_shared_folding(graph).program(),
        partitioner=[XnnpackPartitioner()],
        constant_methods={KEY: device_metadata(graph)},
    )
    path.write_bytes(lowered.to_executorch().buffer)


class ScaleShift(nn.Module):
    """A batch norm in evaluation mode as a factor and a summand for each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None  # no norm of ours lacks them
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", (norm.bias.detach() - norm.running_mean * scale).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same shape."""
        return x * self.scale + self.shift


def without_shared_folding(graph: ImageGraph) -> ImageGraph:
    """A copy of a graph in which the norms of FPN-lite's maps are no batch norms.

    ExecuTorch folds each batch norm into the weights of the convolution before it, also where five maps with a norm
    each share the convolution: every fold then changes what the others have folded (seen in 1.5.1).
    """
    graph = copy.deepcopy(graph)
    for layer in graph.modules():
        if isinstance(layer, SharedLayer):
            layer.norms = nn.ModuleList(ScaleShift(norm) for norm in layer.norms if isinstance(norm, nn.BatchNorm2d))
    return graph


def read_executorch_metadata(path: Path) -> str:
    """The metadata in a file, JSON."""
    from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

    program = Runtime.get().load_program(path)
    method = program.load_method(KEY)
    assert method is not None  # a file of ours
    (metadata,) = method.execute([])
    return metadata


def open_executorch(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [N, H, W, 3] to the outputs of a file by name."""
    from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

    names = json.loads(read_executorch_metadata(path))["export"]["outputs"]
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    assert method is not None  # a file of ours

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = method.execute([torch.from_numpy(images)])
        # Copies, as the next call writes into the same memory.
        return {name: value.numpy().copy() for name, value in zip(names, found, strict=True)}

    return run
