"""The engines that run exported files: .onnx, OpenVINO's .xml, torch's .pt2, each with its metadata read from it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from backbone.errors import InputError
from backbone.weights.description import KEY, read_header
from tools.engines.choice import check_installed, is_installed
from tools.engines.openvino_core import openvino_core
from tools.engines.sessions import OPEN, Session, as_output, first_line, run_in_steps
from tools.exporting.torch_format import read_torch, run_program

ENGINES_OF = {
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
    ".pt2": ("torch",),
}
"""Which engines run a file, by its ending, the one that "auto" prefers first."""


def is_exported(path: str | Path) -> bool:
    """Whether a path names an exported file, by its ending."""
    return Path(path).suffix in ENGINES_OF


class ExportedEngine:
    """An exported file in its runtime.

    Attributes:
        description: the model's, with the entry `export` that says how the file is used.
        size_hw: (height, width) of the input in pixels; None where any fits.
        score_threshold: what a detector's file of form "final" gives scores above this; None for any other.
    """

    def __init__(self, name: str, path: Path, session: Session, description: dict[str, Any]) -> None:
        self.name, self.path, self.session, self.description = name, path, session, description
        export = description["export"]
        self.size_hw: tuple[int, int] | None = tuple(export["size"]) if export["size"] else None
        self.reversed = export["channels"] == "rgb"
        self.batch: int | None = export["batch"]
        self.score_threshold: float | None = export.get("score_threshold")
        heads = export.get("heads")
        self.heads = heads and {name: head["outputs"] for name, head in heads.items()}
        self.multiple, self.least, self.most = (
            export.get(key, default) for key, default in (("multiple", 1), ("least", 1), ("most", math.inf))
        )

    def __call__(self, images: Tensor) -> Any:
        """Images uint8 BGR [N, H, W, 3] -> what the file gives."""
        height, width = images.shape[1:3]
        fits = self.least <= min(height, width) and max(height, width) <= self.most
        if not fits or height % self.multiple or width % self.multiple:
            raise InputError(
                f"{self.path}: takes inputs whose sides are multiples of {self.multiple} from {self.least} to "
                f"{self.most} pixels, not {height}x{width}; give such a size"
            )
        if self.reversed:
            images = images.flip(-1)
        return as_output(run_in_steps(self._run, images.numpy(), self.batch or 1), str(self.path), self.heads)

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            return self.session(images)
        except Exception as error:  # the runtimes' exceptions have no common class
            shape = list(images.shape)
            raise InputError(f"{self.path}: failed on an input of {shape} ({first_line(error)})") from error


def open_file(path: str | Path, engine: str = "auto") -> ExportedEngine:
    """The engine of an exported file.

    Arguments:
        engine: one of `ENGINES_OF` for its ending, or "auto".

    Raises:
        InputError: the file is missing, damaged or not one of ours, has weights outside its folder, or the engine
            cannot run it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; python -m tools.export writes it")
    choices = ENGINES_OF[path.suffix]
    if engine == "auto":
        engine = next((name for name in choices if name == "torch" or is_installed(name)), choices[0])
    if engine not in choices:
        raise InputError(f"{path}: engine {engine} does not run {path.suffix} files; valid: auto, {', '.join(choices)}")
    if engine != "torch":
        check_installed(engine)
    text, open_session = READ[path.suffix](path, engine)
    return ExportedEngine(engine, path, open_session(), _description(path, text))


def _description(path: Path, text: str | None) -> dict[str, Any]:
    """The description in a file's metadata.

    Raises:
        InputError: it is missing or damaged.
    """
    description = read_header({} if text is None else {KEY: text}, str(path))
    if not description:
        raise InputError(f"{path}: has no metadata of taproot's; export the model with python -m tools.export")
    export = description.get("export")
    if not isinstance(export, dict) or not {"output", "outputs", "channels", "size", "batch"} <= export.keys():
        raise InputError(f"{path}: its metadata does not say how it was exported; export the model again")
    return description


def _read_onnx(path: Path, engine: str) -> tuple[str | None, Callable[[], Session]]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise InputError(f"{path}: is no ONNX file ({error}); export the model again") from error
    if not model.graph.node:
        raise InputError(f"{path}: is no ONNX file, or an empty one; export the model again")
    check_external_data(path, model)
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    return text, lambda: OPEN[engine](path)


def check_external_data(path: Path, model: Any) -> None:
    """Refuses an ONNX file whose weights lie outside its folder.

    Arguments:
        model: the file's `onnx.ModelProto`, loaded without external data.

    Raises:
        InputError: a tensor's file is outside the folder, or missing.
    """
    folder = path.parent.resolve()
    for location in sorted(set(_external_locations(model))):
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise InputError(f"{path}: wants weights from outside its folder ({location}); do not trust this file")
        if not file.is_file():
            raise InputError(f"{path}: its weights file {location} is missing beside it; copy both together")


def _external_locations(message: Any) -> list[str]:
    """The external files of every tensor in a protobuf message, at any depth: initializers, attributes, functions."""
    locations = []
    if message.DESCRIPTOR.name == "TensorProto":
        return [entry.value for entry in message.external_data if entry.key == "location"]
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if field.is_repeated else [value]:
            locations += _external_locations(part)
    return locations


def _read_openvino(path: Path, engine: str) -> tuple[str | None, Callable[[], Session]]:
    if not path.with_suffix(".bin").is_file():
        raise InputError(f"{path}: its weights {path.with_suffix('.bin').name} are missing beside it; copy both")
    try:
        model = openvino_core().read_model(path)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [""])[-1][:300]
        raise InputError(f"{path}: is no OpenVINO model ({reason}); export the model again") from error
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    return text, lambda: OPEN[engine](path)


def _read_torch(path: Path, engine: str) -> tuple[str | None, Callable[[], Session]]:
    try:
        program, text = read_torch(path)
    except Exception as error:  # those of damaged archives, of other versions and of other machines share no class
        raise InputError(f"{path}: torch cannot load it ({first_line(error)}); export the model again") from error
    return text, lambda: run_program(program, _description(path, text)["export"]["outputs"])


READ = {".onnx": _read_onnx, ".xml": _read_openvino, ".pt2": _read_torch}
"""What reads a file's metadata and gives what opens it, by its ending."""
