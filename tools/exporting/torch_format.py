"""PyTorch's own files, .pt2: the graph as torch.export gives it, or compiled to machine code by AOTInductor."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbone.errors import InputError
from backbone.weights.description import KEY, read_header
from tools.exporting.graph import ImageGraph

METADATA_FILE = f"{KEY}.json"
"""The extra file inside a graph's .pt2 that holds its metadata."""


def write_torch(graph: ImageGraph, path: Path) -> None:
    """Writes a graph for `torch.export.load`, with its metadata as the extra file METADATA_FILE."""
    torch.export.save(graph.program(), path, extra_files={METADATA_FILE: graph.metadata()})


def open_torch(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [N, H, W, 3] to the outputs of a file by name, run on the CPU."""
    extra = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=extra)
    return _runner(program.module(), extra[METADATA_FILE], path)


def check_compiler_installed() -> None:
    """Raises an InputError where there is no compiler for AOTInductor."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(f"--aoti: needs the compiler {compiler}, not installed; install g++, or leave --aoti out")


def write_compiled(graph: ImageGraph, path: Path) -> None:
    """Writes a graph's machine code for this processor, for `torch._inductor.aoti_load_package` and C++.

    Its metadata is under `KEY` in the package's own.
    """
    check_compiler_installed()
    from torch._inductor import aoti_compile_and_package

    configs = {"aot_inductor.metadata": {KEY: graph.metadata()}}
    aoti_compile_and_package(graph.program(), package_path=str(path), inductor_configs=configs)


def open_compiled(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """As `open_torch`, of what `write_compiled` wrote."""
    from torch._inductor import aoti_load_package

    compiled = aoti_load_package(str(path))
    return _runner(compiled, compiled.loader.get_metadata()[KEY], path)


def _runner(graph: Callable[..., Any], metadata: str, path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    names = read_header({KEY: metadata}, str(path))["export"]["outputs"]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = graph(torch.from_numpy(images))
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}

    return run
