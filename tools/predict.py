"""Loads a trained model of either task from its one file.

from tools.predict import load
model = load("best.safetensors")
result = model(frame_bgr)         # uint8 [H, W, 3]
image = result.draw(frame_bgr)
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import det
import seg
from backbone.errors import InputError
from backbone.weights.names import is_name
from tools.io.model_file import find_description, load_description, load_tensors
from tools.options import ENGINES

PUBLISHED_FILE = "model.safetensors"
"""The weights in a folder for the hub."""


def load_model(path: str | Path, *, task: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The plain model in a weights file and the file's description.

    Published weights by name (`names.resolve`) are described as tools.convert_weights would; of a folder, its
    PUBLISHED_FILE is meant.

    Raises:
        InputError: the file is missing, damaged, or of another task than `task`.
    """
    if Path(path).is_dir():
        folder, path = path, Path(path) / PUBLISHED_FILE
        if not path.is_file():
            raise InputError(f"{folder}: has no {PUBLISHED_FILE}, as tools.publish writes; give a weights file")
    published = None
    if is_name(path) and find_description(path) is None:
        # Here, as torchvision's tables take a second that our own files need not wait for.
        from tools.converters.weights import recognise

        published = recognise(path)
    description = load_description(path) if published is None else published.description
    if task is not None and description["task"] != task:
        raise InputError(f"{path}: is a model for {description['task']}, not for {task}; give the other run's file")
    if description["task"] == "classification":
        raise InputError(f"{path}: is a classifier; tools.eval_backbone scores it, weights={path} starts a training")
    if published is not None:
        return published.model, description
    package = {"segmentation": seg, "detection": det}[description["task"]]
    model = package.create(**description["model"])
    package.load_weights(model, load_tensors(path))
    return model, description


def load(
    path: str | Path,
    engine: str = "auto",
    *,
    device: str | torch.device | None = None,
    score_threshold: float = 0.3,
) -> seg.Predictor | det.Predictor:
    """A predictor: call it with an image, uint8 BGR [H, W, 3].

    Arguments:
        path: the best.safetensors of a run, a folder that tools.publish made, or a name of published weights.
        engine: "torch", or "auto" for the fastest one present.
        device: by default a GPU if there is one.
        score_threshold: a detector gives boxes that score above this; a segmenter has no use for it.
    """
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r} unknown; valid: {', '.join(ENGINES)}")
    model, description = load_model(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    common = {"classes": description["classes"], "mean": tuple(description["mean"]), "std": tuple(description["std"])}
    if description["task"] == "segmentation":
        return seg.Predictor(model, colors=description["colors"], device=device, **common)
    assert isinstance(model, det.Detector)  # what det.create makes
    common |= {"kind": description["score"], "nms_iou": description.get("nms_iou", det.NMS_IOU)}
    return det.Predictor(model, score_threshold=score_threshold, device=device, **common)
