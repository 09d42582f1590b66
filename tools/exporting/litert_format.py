"""LiteRT's files (once TensorFlow Lite), .tflite: run by LiteRT on phones, in browsers and on microcontrollers.

Input and outputs have their names in the file's signature; the metadata is the file's entry `KEY`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backbone.weights.description import KEY
from tools.exporting.devices import device_metadata
from tools.exporting.graph import INPUT, ImageGraph
from tools.io.packages import require

CURE = "it has an environment of its own: pip install litert-torch 'torch<2.15'"
"""litert-torch takes no newer torch."""


def check_litert_installed() -> None:
    """Raises an InputError that says what to install where a package is missing."""
    require("format litert", ("litert_torch", "ai_edge_litert"), CURE)


def write_litert(graph: ImageGraph, path: Path) -> None:
    """Writes a graph as one file, weights inside. Labels of boxes become int32.

    Raises:
        InputError: a package is missing.
    """
    check_litert_installed()
    import litert_torch  # pyright: ignore[reportMissingImports]

    litert_torch.config.show_progress = False
    litert_torch.convert(graph.eval(), (graph.example(),)).export(str(path))
    path.write_bytes(_described(path.read_bytes(), graph))


def _described(content: bytes, graph: ImageGraph) -> bytes:
    """A file's content with the names of input and outputs, and the metadata."""
    import flatbuffers  # pyright: ignore[reportMissingImports]
    from ai_edge_litert import schema_py_generated as schema  # pyright: ignore[reportMissingImports]

    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    (signature,) = model.signatureDefs
    signature.inputs[0].name = INPUT
    # The exporter numbers them: output_0, output_1, …
    for output in signature.outputs:
        output.name = graph.names[int(output.name.decode().rpartition("_")[2])]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(device_metadata(graph).encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_litert_metadata(path: Path) -> str:
    """The metadata in a file, JSON."""
    from ai_edge_litert import schema_py_generated as schema  # pyright: ignore[reportMissingImports]

    model: Any = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (entry,) = (entry for entry in model.metadata if entry.name == KEY.encode())
    return bytes(model.buffers[entry.buffer].data).decode()


def open_litert(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [N, H, W, 3] to the outputs of a file by name, run on the CPU."""
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    # The runner's memory is the interpreter's, which it keeps alive.
    runner = Interpreter(str(path)).get_signature_runner()
    return lambda images: runner(**{INPUT: images})
