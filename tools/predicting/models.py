"""Trained models of any task from their files: plain to be worked on, or as predictors."""

from collections.abc import Mapping
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
from tools.joint import predictor as joint
from tools.joint import weights as joint_weights
from tools.joint.network import JointNetwork
from tools.joint.network import create as create_joint
from tools.options import ENGINES, JOINT

PACKAGES = {"segmentation": seg, "detection": det}
Predictor = seg.Predictor | det.Predictor | joint.Predictor
PUBLISHED_FILE = "model.safetensors"
"""The weights in a folder for the hub."""
NO_NMS_OF_JOINT = "the boxes of a joint network are taken with NMS; leave --no-nms out"


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
    if task is not None and description["task"] == JOINT != task:
        raise InputError(f"{path}: is a joint network; tools.split makes the file for {task} of it")
    if task is not None and description["task"] != task:
        raise InputError(f"{path}: is a model for {description['task']}, not for {task}; give the other run's file")
    if description["task"] == "classification":
        raise InputError(f"{path}: is a classifier; tools.eval_backbone scores it, weights={path} starts a training")
    if published is not None:
        return published.model, description
    if description["task"] == JOINT:
        return joint_weights.load(path)
    check_choice(f"{path}: task", description["task"], [*PACKAGES, JOINT])
    package = PACKAGES[description["task"]]
    model = build(package.create, path, description)
    package.load_weights(model, load_tensors(path))
    return model, description


def load_to_predict(path: str | Path, *, task: str | None = None, nms: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """As `load_model`, with what `keep_predictors` makes of a detector.

    Raises:
        InputError: what `load_model` and `keep_predictors` raise.
    """
    model, description = load_model(path, task=task)
    return model, keep_predictors(model, description, nms=nms, source=path)


def keep_predictors(
    model: nn.Module, description: Mapping[str, Any], *, nms: bool, source: str | Path
) -> dict[str, Any]:
    """Leaves a detector one set of predictors; other models have no use for this.

    Arguments:
        nms: those whose boxes are chosen by non-maximum suppression, else the one-to-one predictors.
        source: the file, for the message.

    Returns:
        The description; its `nms_iou` is None where there is no suppression.

    Raises:
        InputError: the boxes of a head with anchors, or of a joint network, need NMS.
    """
    if not nms and isinstance(model, JointNetwork):
        raise InputError(f"{source}: {NO_NMS_OF_JOINT}")
    if not isinstance(model, det.Detector):
        return dict(description)
    try:
        model.keep(one_to_one=not nms)
    except InputError as error:
        raise InputError(f"{source}: {error}, or leave --no-nms out") from error
    return dict(description) if nms else {**description, "nms_iou": None}


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
    nms: bool = True,
    scores: bool = False,
) -> Predictor:
    """As `tools.predict.load`, which says more."""
    if is_exported(path):
        return _load_exported(
            path, engine, size=size, device=device, score_threshold=score_threshold, nms=nms, scores=scores
        )
    check_choice("engine", engine, ENGINES)
    if device is None:
        device = "cuda" if torch.cuda.is_available() and engine not in MODULES else "cpu"
    name = choose_engine(engine, torch.device(device).type)
    check_size(size)
    model, description = load_to_predict(path, nms=nms)
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
    nms: bool,
    scores: bool,
) -> Predictor:
    """As `load`, of an exported file."""
    check_choice("engine", engine, ENGINES)
    if device is not None and torch.device(device).type != "cpu":
        raise InputError(f"{path}: exported files run on the CPU, not on {device}; leave the device out")
    check_size(size)
    network = open_file(path, engine)
    description = network.description
    if description["task"] not in (*PACKAGES, JOINT):
        raise InputError(f"{path}: is an export for {description['task']}; predictions need a segmenter or a detector")
    fixed = network.size_hw
    if size is not None and fixed is not None and (isinstance(size, int) or tuple(size) != fixed):
        raise InputError(f"{path}: takes inputs of {fixed[0]}x{fixed[1]} pixels only; leave the size out")
    # Models for their anchors; the weights are in the file.
    model = None
    if description["task"] == "detection":
        if not nms and description.get("nms_iou", det.NMS_IOU) is not None:
            raise InputError(f"{path}: its boxes need NMS; export the weights with --no-nms, or leave --no-nms out")
        model = det.create(**description["model"])
    elif description["task"] == JOINT:
        if not nms:
            raise InputError(f"{path}: {NO_NMS_OF_JOINT}")
        model = create_joint(**description["model"])
    if scores and description["task"] != "detection" and description["export"]["output"] == "final":
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
) -> Predictor:
    """The predictor of the description's task; a segmenter's does not need the model."""
    if isinstance(model, JointNetwork):
        return _joint_predictor(network, model, description, size=size, score_threshold=score_threshold, scores=scores)
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


def _joint_predictor(
    network: Engine,
    model: JointNetwork,
    description: dict[str, Any],
    *,
    size: Size,
    score_threshold: float,
    scores: bool,
) -> joint.Predictor:
    """The predictor of a joint network; by default its inputs have the size that its first detector was trained at."""
    singles = {name: model.single(name) for name in model.tasks}
    if size is None:
        size = next((single.image_size_hw for single in singles.values() if isinstance(single, det.Detector)), None)
    parts: dict[str, Any] = {
        name: _predictor(
            network,
            single,
            joint_weights.head_description(description, name),
            size=size,
            score_threshold=score_threshold,
            scores=scores,
        )
        for name, single in singles.items()
    }
    return joint.Predictor(network, parts, size=size, multiple=model.multiple)
