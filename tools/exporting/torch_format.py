"""PyTorch's own files, .pt2: the graph as torch.export gives it, or compiled to machine code by AOTInductor."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch

from backbone.weights.description import KEY, read_header
from tools.exporting.graph import ImageGraph

METADATA_FILE = f"{KEY}.json"
"""The extra file inside a graph's .pt2 that holds its metadata."""
AOTI_FOLDER = "/aotinductor/"
"""Where the machine code lies in a .pt2 that AOTInductor made."""
Program = Callable[..., Any]
"""Images uint8 [N, H, W, 3], as a tensor -> the outputs in order."""


def write_torch(graph: ImageGraph, path: Path) -> None:
    """Writes a graph for `torch.export.load`, with its metadata as the extra file METADATA_FILE."""
    torch.export.save(graph.program(), path, extra_files={METADATA_FILE: graph.metadata()})


def write_compiled(graph: ImageGraph, path: Path) -> None:
    """Writes a graph's machine code for this processor, for `torch._inductor.aoti_load_package` and C++.

    Its metadata is under `KEY` in the package's own.
    """
    from torch._inductor import aoti_compile_and_package

    configs = {"aot_inductor.metadata": {KEY: graph.metadata()}}
    aoti_compile_and_package(graph.program(), package_path=str(path), inductor_configs=configs)


def read_torch(path: Path) -> tuple[Program, str | None]:
    """The graph in a file of either kind, and the file's metadata, None if it has none."""
    with ZipFile(path) as archive:
        compiled = any(AOTI_FOLDER in name for name in archive.namelist())
    if compiled:
        from torch._inductor import aoti_load_package

        package = aoti_load_package(str(path))
        return package, package.loader.get_metadata().get(KEY)
    texts = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=texts).module()
    return program, texts[METADATA_FILE] or None


def run_program(program: Program, names: Sequence[str]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [N, H, W, 3] to a graph's outputs by name, run on the CPU."""

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = program(torch.from_numpy(images))
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    return run


def open_torch(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [N, H, W, 3] to the outputs of a file of either kind by name, run on the CPU."""
    program, text = read_torch(path)
    assert text is not None  # a file of ours
    return run_program(program, read_header({KEY: text}, str(path))["export"]["outputs"])
