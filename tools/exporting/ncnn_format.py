"""ncnn's files: the layers in OUT.param, the weights in OUT.bin, the metadata in OUT.json; for phones and small boards.

The input `image` is float32 planes [3, H, W], 0 to 255, in the order of channels that was asked for:
`ncnn::Mat::from_pixels` makes them of an image's bytes. ncnn has neither argmax nor NMS of this kind, so the output is
raw.
"""

import json
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from backbone.errors import InputError
from tools.exporting.devices import PlanarGraph, device_metadata
from tools.exporting.graph import INPUT, ImageGraph
from tools.io.packages import require


def check_ncnn_installed() -> None:
    """Raises an InputError that says what to install where a package is missing."""
    require("format ncnn", ("pnnx", "ncnn", "onnx", "onnxscript"), "run pip install 'taproot[ncnn]'")


def write_ncnn(graph: ImageGraph, path: Path) -> None:
    """Writes a graph as `path`, a .param, and the .bin and .json beside it.

    torch's exporter writes ONNX, from which ncnn's converter pnnx takes it.

    Raises:
        InputError: a package is missing, or pnnx cannot convert the model.
    """
    check_ncnn_installed()
    import pnnx  # pyright: ignore[reportMissingImports]

    program = PlanarGraph(graph).program()
    with TemporaryDirectory() as folder:
        onnx = torch.onnx.export(program, dynamo=True, input_names=["image"], external_data=False, verbose=False)
        assert onnx is not None  # it is where no file is asked for
        onnx.save(Path(folder) / "model.onnx", external_data=False)
        command = [pnnx.EXEC_PATH, "model.onnx", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        layers, weights = Path(folder) / "model.ncnn.param", Path(folder) / "model.ncnn.bin"
        if done.returncode or not weights.is_file():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise InputError(f"{path}: pnnx could not convert the model: {' '.join(last)}")
        names = {"in0": INPUT} | {f"out{number}": name for number, name in enumerate(graph.names)}
        path.write_text(named(layers.read_text(), names))
        path.with_suffix(".bin").write_bytes(weights.read_bytes())
    path.with_suffix(".json").write_text(device_metadata(graph) + "\n")


def named(layers: str, names: dict[str, str]) -> str:
    """A .param's text with other names of its blobs.

    Each line after the first two is a layer: type, name, number of inputs, number of outputs, the names of these blobs,
    then settings.
    """
    lines = []
    for line in layers.splitlines():
        fields = line.split()
        if len(fields) > 4:
            end = 4 + int(fields[2]) + int(fields[3])
            fields[4:end] = [names.get(blob, blob) for blob in fields[4:end]]
            line = " ".join(fields)
        lines.append(line)
    return "\n".join(lines) + "\n"


def open_ncnn(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from images uint8 [1, H, W, 3] to the outputs of a file by name, run on the CPU.

    Raises:
        InputError: the runtime cannot load the file.
    """
    ncnn: Any = import_module("ncnn")  # compiled, and without types

    names = json.loads(path.with_suffix(".json").read_text())["export"]["outputs"]
    network = ncnn.Net()
    # By default it computes in half precision where the processor can.
    for number in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
        setattr(network.opt, f"use_{number}", False)
    if network.load_param(str(path)) or network.load_model(str(path.with_suffix(".bin"))):
        raise InputError(f"{path}: ncnn cannot load the file")

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        planes = np.ascontiguousarray(images[0].transpose(2, 0, 1), np.float32)
        extractor = network.create_extractor()
        mat = ncnn.Mat(planes)  # a view of `planes`
        extractor.input(INPUT, mat)
        outputs = {}
        for name in names:
            # Both values must live until the copy: freeing either frees the memory of the output.
            code, output = extractor.extract(name)
            assert code == 0  # the file has the output
            outputs[name] = output.numpy().copy()[None]
        return outputs

    return run
