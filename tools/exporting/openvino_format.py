"""OpenVINO's files, an .xml and a .bin of weights beside it: written by its converter, run by its runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from backbone.weights.description import KEY
from tools.engines.openvino_core import openvino_core
from tools.exporting.graph import INPUT, ImageGraph
from tools.exporting.packages import require


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


def open_openvino(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [N, H, W, 3] to the outputs of a file by name, run on the CPU."""

    # By default it computes in bfloat16 on processors that have it.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino_core().compile_model(path, "CPU", exact)
    names = [output.any_name for output in model.outputs]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = model(images)
        return {name: np.array(found[name]) for name in names}

    return run
