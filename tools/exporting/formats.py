"""The formats: for each, how a graph becomes a file, how the file is run, and what it needs.

A format is a module `NAME_format.py` that imports its own packages inside its functions, and a row of `FORMATS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.engines.sessions import Session, open_onnxruntime, open_openvino
from tools.exporting.coreml_format import check_coreml_installed, write_coreml
from tools.exporting.executorch_format import check_executorch_installed, open_executorch, write_executorch
from tools.exporting.graph import ImageGraph
from tools.exporting.litert_format import check_litert_installed, open_litert, write_litert
from tools.exporting.ncnn_format import check_ncnn_installed, open_ncnn, write_ncnn
from tools.exporting.onnx_format import check_onnx_installed, write_onnx
from tools.exporting.openvino_format import check_openvino_installed, write_openvino
from tools.exporting.torch_format import open_torch, write_compiled, write_torch
from tools.io.packages import require_compiler


class Format(NamedTuple):
    """What the export does for a format."""

    suffix: str  # of the file's name
    check: Callable[[], None]  # raises an InputError where a package is missing
    write: Callable[[ImageGraph, Path], None]  # the file, and others beside it whose names begin with its stem
    open: Callable[[Path], Session] | None  # by its runtime; None where this system cannot run it
    distributions: tuple[str, ...]  # whose versions stand in the record beside torch's
    final_labels: bool = True  # whether the labels of pixels can be in the graph; else a segmenter's output is raw
    final_boxes: bool = True  # whether boxes can be in the graph; else a detector's output is raw
    free_sizes: bool = True  # whether a size can be left open


FORMATS = {
    "onnx": Format(".onnx", check_onnx_installed, write_onnx, open_onnxruntime, ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(".xml", check_openvino_installed, write_openvino, open_openvino, ("openvino",)),
    "torch": Format(".pt2", lambda: None, write_torch, open_torch, ()),
    "executorch": Format(
        ".pte",
        check_executorch_installed,
        write_executorch,
        open_executorch,
        ("executorch",),
        free_sizes=False,
    ),
    "litert": Format(
        ".tflite",
        check_litert_installed,
        write_litert,
        open_litert,
        ("litert-torch", "litert-converter", "ai-edge-litert"),
        free_sizes=False,
    ),
    "coreml": Format(
        ".mlpackage",
        check_coreml_installed,
        write_coreml,
        None,
        ("coremltools",),
        final_boxes=False,
        free_sizes=False,
    ),
    "ncnn": Format(
        ".param",
        check_ncnn_installed,
        write_ncnn,
        open_ncnn,
        ("onnx", "onnxscript", "pnnx", "ncnn"),
        final_labels=False,
        final_boxes=False,
        free_sizes=False,
    ),
}
"""By the names of `tools.options.FORMATS`."""
COMPILED = Format(
    ".pt2", lambda: require_compiler("--aoti", "leave --aoti out"), write_compiled, open_torch, distributions=()
)
"""The format torch with AOTInductor's machine code."""
