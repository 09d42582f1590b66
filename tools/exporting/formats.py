"""The formats: for each, how a graph becomes a file, how the file is run, and what it needs.

A format is a module `NAME_format.py` that imports its own packages inside its functions, and a row of `FORMATS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.exporting.graph import ImageGraph
from tools.exporting.onnx_format import check_onnx_installed, open_onnx, write_onnx
from tools.exporting.openvino_format import check_openvino_installed, open_openvino, write_openvino
from tools.exporting.torch_format import (
    check_compiler_installed,
    open_compiled,
    open_torch,
    write_compiled,
    write_torch,
)

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Images uint8 [N, H, W, 3] -> the outputs by name, as `tools.exporting.graph` lists them."""


class Format(NamedTuple):
    """What the export does for a format."""

    suffix: str  # of the file's name
    check: Callable[[], None]  # raises an InputError where a package is missing
    write: Callable[[ImageGraph, Path], None]  # the file, and others beside it whose names begin with its stem
    open: Callable[[Path], Run] | None  # runs the file by its runtime; None where that is not possible on this system
    distributions: tuple[str, ...]  # whose versions stand in the record beside torch's
    final_boxes: bool = True  # whether boxes can be in the graph; else a detector's output is raw
    free_sizes: bool = True  # whether a size can be left open


FORMATS = {
    "onnx": Format(
        ".onnx", check_onnx_installed, write_onnx, open_onnx, ("torch", "onnx", "onnxscript", "onnxruntime")
    ),
    "openvino": Format(".xml", check_openvino_installed, write_openvino, open_openvino, ("torch", "openvino")),
    "torch": Format(".pt2", lambda: None, write_torch, open_torch, ("torch",)),
}
"""By the names of `tools.options.FORMATS`."""
COMPILED = Format(".pt2", check_compiler_installed, write_compiled, open_compiled, ())
"""The format torch with AOTInductor's machine code."""
