"""ExecuTorch's files, .pte: computed by XNNPACK on the processors of phones and computers.

The metadata is what the file's method `KEY` returns, a text. The outputs have numbers only; their names are the
metadata's `outputs`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from backbone.weights.description import KEY
from tools.exporting.devices import device_metadata
from tools.exporting.graph import ImageGraph
from tools.exporting.packages import require

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
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        graph.program(), partitioner=[XnnpackPartitioner()], constant_methods={KEY: device_metadata(graph)}
    )
    path.write_bytes(lowered.to_executorch().buffer)


def read_executorch_metadata(path: Path) -> str:
    """The metadata in a file, JSON."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method(KEY)
    assert method is not None  # a file of ours
    (metadata,) = method.execute([])
    return metadata


def open_executorch(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [N, H, W, 3] to the outputs of a file by name."""
    from executorch.runtime import Runtime

    names = json.loads(read_executorch_metadata(path))["export"]["outputs"]
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    assert method is not None  # a file of ours

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = method.execute([torch.from_numpy(images)])
        # Copies, as the next call writes into the same memory.
        return {name: value.numpy().copy() for name, value in zip(names, found, strict=True)}

    return run
