"""Core ML's packages, .mlpackage, for Apple's systems; they can be written anywhere and run only there.

The input `image` is a picture of the size and order of channels that was asked for, as Vision and `CVPixelBuffer` give
it. Labels are int32. The metadata is the package's user-defined entry `KEY`. Boxes are raw.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from backbone.weights.description import KEY
from tools.exporting.devices import PlanarGraph, device_metadata
from tools.exporting.graph import INPUT, ImageGraph
from tools.io.packages import require


def check_coreml_installed() -> None:
    """Raises an InputError that says what to install where the package is missing."""
    require("format coreml", ("coremltools",), "run pip install 'taproot[coreml]'")


def write_coreml(graph: ImageGraph, path: Path) -> None:
    """Writes a graph as an ML program in float32, for iOS 17 and macOS 14 on.

    Raises:
        InputError: the package is missing.
    """
    check_coreml_installed()
    # It logs that scikit-learn and torch are newer than its tests, and that the runtime is only on Apple's systems.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools  # pyright: ignore[reportMissingImports]

    program = PlanarGraph(graph).program().run_decompositions({})
    _drop_aliases(program)
    colors = getattr(coremltools.colorlayout, graph.description["export"]["channels"].upper())
    assert graph.size_hw is not None  # the format holds one size
    with warnings.catch_warnings():
        # Its own use of its own registry, and of temporary folders.
        warnings.filterwarnings("ignore", "Function _TORCH_OPS_REGISTRY", DeprecationWarning)
        warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
        model: Any = coremltools.convert(
            program,
            inputs=[coremltools.ImageType(INPUT, (graph.batch, 3, *graph.size_hw), color_layout=colors)],
            outputs=[coremltools.TensorType(name) for name in graph.names],
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS17,
            # By default float16, which is another model.
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        model.user_defined_metadata[KEY] = device_metadata(graph)
        model.save(str(path))
        del model  # while the warning about its folder is silent


def _drop_aliases(program: ExportedProgram) -> None:
    """Takes out the operators that give their input as it is, which coremltools does not know."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            (source,) = node.args
            node.replace_all_uses_with(source)
            program.graph_signature.replace_all_uses(node.name, source.name)
            program.graph.erase_node(node)
