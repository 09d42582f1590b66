"""Files opened in their runtimes: a session takes images and gives the outputs by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from det.boxes import RawDetections
from det.postprocess import StaticDetections
from tools.engines.openvino_core import openvino_core
from tools.exporting.graph import INPUT

Session = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Images uint8 [N, H, W, 3] -> the outputs by name."""


def open_onnxruntime(path: Path) -> Session:
    """An ONNX file in ONNX Runtime, on as many threads as torch has.

    Raises:
        InputError: the runtime cannot load the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Idle threads that spin take the cores from whatever else runs, as OpenMP's did (tools/__init__.py).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # only what is fatal: errors come as exceptions anyway
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no common class
        raise _refused(path, "ONNX Runtime", error) from error
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = session.run(names, {INPUT: images})
        return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}

    return run


def open_openvino(path: Path) -> Session:
    """An ONNX file or OpenVINO's .xml in OpenVINO, in float32, on as many threads as torch has.

    Raises:
        InputError: the runtime cannot load the file.
    """
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # else networks that run at once on a thread each may share one core
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 on processors that have it
    }
    try:
        model = openvino_core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise _refused(path, "OpenVINO", error) from error
    request = model.create_infer_request()
    names = [output.any_name for output in model.outputs]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = request.infer({INPUT: images}, share_inputs=True)
        return {name: np.array(found[name]) for name in names}

    return run


OPEN = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}
"""What opens a file, by the engine's name."""


def run_in_steps(session: Session, images: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """The outputs for images uint8 [N, H, W, 3] of a session that takes `step` at a time.

    What fills the last input up is dropped.
    """
    filled = np.concatenate([images, images[-1:].repeat(-len(images) % step, axis=0)])
    parts = [session(filled[start : start + step]) for start in range(0, len(filled), step)]
    return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in parts[0]}


def as_output(
    found: Mapping[str, np.ndarray | Tensor], source: str, heads: Mapping[str, Mapping[str, str]] | None = None
) -> Any:
    """A graph's outputs by name as what a predictor's `finish` takes.

    Arguments:
        source: the file, for the message.
        heads: of a joint network, by name: the outputs' names in the file by those of a model with this head alone.

    Raises:
        InputError: they are neither a segmenter's nor a detector's.
    """
    if heads is not None:
        return {
            head: as_output({own: found[named] for own, named in names.items()}, source)
            for head, names in heads.items()
        }
    tensors = {name: torch.as_tensor(value) for name, value in found.items()}
    for names, make in (
        (("logits",), lambda logits: logits),
        (("class_logits", "box_offsets"), RawDetections),
        (("boxes", "scores", "labels"), _padded),
        (("labels",), lambda labels: labels),
    ):
        if tensors.keys() == set(names):
            return make(*(tensors[name] for name in names))
    raise InputError(f"{source}: its outputs are {', '.join(tensors)}; predictions need a segmenter or a detector")


def _padded(boxes: Tensor, scores: Tensor, labels: Tensor) -> StaticDetections:
    return StaticDetections(boxes, scores, labels, scores > 0)


def first_line(error: Exception) -> str:
    """What an error of another package says, short enough for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _refused(path: Path, runtime: str, error: Exception) -> InputError:
    return InputError(f"{path}: {runtime} cannot load it ({first_line(error)}); export the model again")
