"""ONNX files: written by torch's exporter, run by ONNX Runtime."""

from pathlib import Path

import torch

from backbone.errors import InputError
from backbone.weights.description import KEY
from tools.exporting.graph import INPUT, ImageGraph
from tools.io.packages import require

OPSETS = (18, 19, 20, 21, 22, 23)
"""Those that torch's exporter writes and ONNX Runtime runs."""
OPSET = 18


def check_onnx_installed() -> None:
    """Raises an InputError that says what to install where a package is missing."""
    require("format onnx", ("onnx", "onnxscript", "onnxruntime"), "run pip install 'taproot[onnx]'")


def write_onnx(graph: ImageGraph, path: Path, *, opset: int = OPSET) -> None:
    """Writes a graph as one file, weights inside, with its metadata under `KEY` in the file's `metadata_props`.

    Raises:
        InputError: a package is missing, or the opset is not one of `OPSETS`.
    """
    check_onnx_installed()
    if opset not in OPSETS:
        raise InputError(f"opset {opset}: cannot be written; valid: {', '.join(map(str, OPSETS))}")
    exported = torch.onnx.export(
        graph.program(),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(graph.names),
        external_data=False,
        verbose=False,
    )
    assert exported is not None  # it is where no file is asked for
    model = exported.model
    # The exporter writes where in the source each operator stands: half of a small file, and this machine's paths.
    for part in (model, model.graph, *model.graph.all_nodes(), *model.functions.values()):
        part.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *(v for n in model.graph.all_nodes() for v in n.outputs)):
        value.metadata_props.clear()
    model.metadata_props[KEY] = graph.metadata()
    exported.save(path, external_data=False)
