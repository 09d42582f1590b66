"""OpenVINO's files, an .xml and a .bin of weights beside it: written by its converter, run by its runtime."""

from pathlib import Path

from backbone.weights.description import KEY
from tools.exporting.graph import INPUT, ImageGraph
from tools.io.packages import require


def check_openvino_installed() -> None:
    """Raises an InputError that says what to install where the package is missing."""
    require("format openvino", ("openvino",), "run pip install 'taproot[openvino]'")


def write_openvino(graph: ImageGraph, path: Path) -> None:
    """Writes a graph as `path`, an .xml, and the .bin beside it, with its metadata under `KEY` in the `rt_info`.

    Raises:
        InputError: the package is missing.
    """
    check_openvino_installed()
    import openvino

    free = graph.dynamic_shapes() or {}
    shape = [-1 if axis in free else side for axis, side in enumerate(graph.example().shape)]
    model = openvino.convert_model(graph.program(), input=openvino.PartialShape(shape))
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, graph.names, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(graph.metadata(), KEY)
    # Half precision on disk would be another model.
    openvino.save_model(model, path, compress_to_fp16=False)
