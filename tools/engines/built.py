"""The engine that runs a torch model in a runtime: it builds the runtime's file once for each size of input."""

import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from backbone.errors import InputError
from backbone.inference import TorchEngine
from tools.engines.cache import entry_key, find_or_build
from tools.engines.sessions import OPEN, Session, as_output, run_in_steps
from tools.engines.sizes import SizeLimit
from tools.exporting.graph import ImageGraph, head_outputs, image_graph
from tools.exporting.onnx_format import write_onnx
from tools.exporting.openvino_format import write_openvino
from tools.joint.network import JointNetwork

PACKAGES = {
    "onnxruntime": ("torch", "onnxscript", "onnx", "onnxruntime"),
    "openvino": ("torch", "openvino"),
}
"""The packages that make a runtime's file."""


class BuiltEngine:
    """A model in a runtime on the CPU, image by image, which costs nothing there.

    Arguments:
        name: "onnxruntime" or "openvino".
        model: a Segmenter, Detector or JointNetwork.
        description: the model's, as its weights file has it.
    """

    def __init__(self, name: str, model: nn.Module, description: Mapping[str, Any]) -> None:
        self.runtime = name
        self.model, self.description = model, description
        self.sessions: dict[tuple[int, int], Session] = {}
        self.heads = head_outputs(model, "raw") if isinstance(model, JointNetwork) else None
        self.limit = SizeLimit(name, lambda: TorchEngine(model, mean=description["mean"], std=description["std"]))

    @property
    def name(self) -> str:
        return self.runtime if self.limit.torch is None else f"{self.runtime} and torch"

    def __call__(self, images: Tensor) -> Any:
        """Images uint8 BGR [N, H, W, 3] -> what the model gives."""
        height, width = images.shape[1:3]
        if (torch_engine := self.limit.beyond((height, width))) is not None:
            return torch_engine(images)
        session = self.sessions.get((height, width))
        if session is None:
            session = self.sessions[height, width] = self._build((height, width))
        return as_output(run_in_steps(session, images.numpy(), 1), self.name, self.heads)

    def _build(self, size_hw: tuple[int, int]) -> Session:
        """A session for inputs of (height, width)."""
        file, write = WRITE[self.runtime]
        versions = {package: metadata.version(package) for package in PACKAGES[self.runtime]}
        described = {key: value for key, value in self.description.items() if key not in ("metrics", "step")}
        key = entry_key(self.model, {"file": file, "size": size_hw, "versions": versions, "description": described})

        def build(folder: Path) -> None:
            print(f"building the network for {self.runtime} at {size_hw[0]}x{size_hw[1]}, once", file=sys.stderr)
            write(image_graph(self.model, self.description, size_hw=size_hw), folder / file)

        try:
            return OPEN[self.runtime](find_or_build(key, build) / file)
        except InputError:  # a file that was damaged since
            return OPEN[self.runtime](find_or_build(key, build, again=True) / file)


WRITE: dict[str, tuple[str, Callable[[ImageGraph, Path], None]]] = {
    "onnxruntime": ("model.onnx", write_onnx),
    "openvino": ("model.xml", write_openvino),
}
"""A runtime's file and what writes it."""
