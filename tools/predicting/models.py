"""Trained models of either task from their files: plain to be worked on, or as predictors."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import det
import seg
from backbone.errors import InputError, check_choice
from backbone.inference import Engine, Size, TorchEngine, check_size
from backbone.weights.names import is_name
from tools.engines.built import BuiltEngine
from tools.engines.choice import MODULES, choose_engine
from tools.engines.compiled import CompiledEngine
from tools.engines.exported import is_exported, open_file
from tools.io.model_file import build, find_description, load_description, load_tensors
from tools.options import ENGINES

PACKAGES = {"segmentation": seg, "detection": det}
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
    if is_exported(path):
        raise InputError(f"{path}: is an exported file, which cannot be trained, changed or exported; give its weights")
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
    check_choice(f"{path}: task", description["task"], list(PACKAGES))
    package = PACKAGES[description["task"]]
    model = build(package.create, path, description)
    package.load_weights(model, load_tensors(path))
    return model, description


def runs_plainly(path: str | Path, engine: str | None) -> bool:
    """Whether a file that is scored runs as `load_model` gives it, as in training, rather than by a predictor."""
    return engine in (None, "torch") and not is_exported(path)


def load(
    path: str | Path,
    engine: str = "auto",
    *,
    size: Size = None,
    device: str | torch.device | None = None,
    score_threshold: float = 0.3,
    scores: bool = False,
) -> seg.Predictor | det.Predictor:
    """As `tools.predict.load`, which says more."""
    if is_exported(path):
        return _load_exported(path, engine, size=size, device=device, score_threshold=score_threshold, scores=scores)
    check_choice("engine", engine, ENGINES)
    if device is None:
        device = "cuda" if torch.cuda.is_available() and engine not in MODULES else "cpu"
    name = choose_engine(engine, torch.device(device).type)
    check_size(size)
    model, description = load_model(path)
    network: Engine
    if name in MODULES:
        network = BuiltEngine(name, model, description)
    else:
        make = {"torch": TorchEngine, "compiled": CompiledEngine}[name]
        network = make(model, mean=description["mean"], std=description["std"], device=device)
    return _predictor(network, model, description, size=size, score_threshold=score_threshold, scores=scores)


def _load_exported(
    path: str | Path,
    engine: str,
    *,
    size: Size,
    device: str | torch.device | None,
    score_threshold: float,
    scores: bool,
) -> seg.Predictor | det.Predictor:
    """As `load`, of an exported file."""
    check_choice("engine", engine, ENGINES)
    if device is not None and torch.device(device).type != "cpu":
        raise InputError(f"{path}: exported files run on the CPU, not on {device}; leave the device out")
    check_size(size)
    network = open_file(path, engine)
    description = network.description
    if description["task"] not in PACKAGES:
        raise InputError(f"{path}: is an export for {description['task']}; predictions need a segmenter or a detector")
    fixed = network.size_hw
    if size is not None and fixed is not None and (isinstance(size, int) or tuple(size) != fixed):
        raise InputError(f"{path}: takes inputs of {fixed[0]}x{fixed[1]} pixels only; leave the size out")
    model = None
    if description["task"] == "detection":
        model = det.create(**description["model"])  # for its anchors; the weights are in the file
    if scores and description["task"] == "segmentation" and description["export"]["output"] == "final":
        raise InputError(f"{path}: gives labels without scores; give the weights, or an export with --output raw")
    return _predictor(network, model, description, size=size or fixed, score_threshold=score_threshold, scores=scores)


def _predictor(
    network: Engine,
    model: nn.Module | None,
    description: dict[str, Any],
    *,
    size: Size,
    score_threshold: float,
    scores: bool,
) -> seg.Predictor | det.Predictor:
    """The predictor of the description's task; only a detector's needs the model."""
    if description["task"] == "segmentation":
        return seg.Predictor(
            network, classes=description["classes"], colors=description["colors"], size=size, scores=scores
        )
    assert isinstance(model, det.Detector)  # what det.create makes
    return det.Predictor(
        network,
        model,
        description["classes"],
        kind=description["score"],
        nms_iou=description.get("nms_iou", det.NMS_IOU),
        score_threshold=score_threshold,
        size=size,
        category_ids=description["category_ids"],
    )
