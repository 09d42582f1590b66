"""Scores a detector on a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import det
from backbone.errors import InputError
from backbone.inference import Engine, normalise
from det.data.transforms import Transform
from tools.engines.exported import ExportedEngine
from tools.io.console import console, progress, table
from tools.options import JOINT
from tools.predicting.models import load, load_to_predict, runs_plainly
from tools.run.processes import gather_parts, shard
from tools.scoring.loaders import each_once

SCORE_OF_LOSS = {"softmax": "softmax", "focal": "sigmoid", "quality_focal": "sigmoid", "aligned": "sigmoid"}
"""What turns logits into scores, by the loss they were trained with."""

BATCH = 16

Find = Callable[[Tensor, list[list[int]]], list[det.Detections]]
"""(images uint8 RGB [N, 3, h, w], the (height, width) that each had on disk) -> what is in each."""


class Subject(NamedTuple):
    """A detector that is scored, whatever runs it."""

    find: Find
    transform: Transform  # makes its inputs
    classes: list[str]
    engine: Callable[[], str]  # what ran it, once it has run
    note: str  # on its protocol; empty where it is the usual one


def model_detections(model: nn.Module, description: dict[str, Any], device: torch.device) -> Find:
    """What a model in evaluation mode finds.

    Arguments:
        model: images [N, 3, H, W] -> `det.RawDetections`.
        description: `mean`, `std` and `score` of the model, as its weights file has them.
    """
    assert isinstance(model, det.Detector)
    nms_iou = description.get("nms_iou", det.NMS_IOU)  # only converted files name it
    finish = det.PostProcess(
        description["score"], model.background, nms_iou=nms_iou, resize=model.resize, decode=model.head.decode
    )

    def find(images: Tensor, sizes_hw: list[list[int]]) -> list[det.Detections]:
        images = normalise(images.to(device), description["mean"], description["std"], channels_last=True)
        return finish(model(images), model.anchors, model.image_size_hw, sizes_hw)

    return find


def predictor_detections(predictor: det.Predictor) -> Find:
    """What a predictor's network finds."""

    def find(images: Tensor, sizes_hw: list[list[int]]) -> list[det.Detections]:
        return predictor.detections(predictor.network(images.permute(0, 2, 3, 1).flip(-1)), sizes_hw)

    return find


def open_subject(weights: Path, engine: str | None, device: torch.device, *, nms: bool = True) -> Subject:
    """The detector in a weights file or an exported file.

    Arguments:
        engine: one of `tools.options.ENGINES`; None: torch, or an exported file's own.
        nms: as `tools.predict.load` takes it.

    Raises:
        InputError: the file or the engine cannot be used.
    """
    if runs_plainly(weights, engine):
        model, description = load_to_predict(weights, task="detection", nms=nms)
        assert isinstance(model, det.Detector)  # what det.create makes
        transform = det.eval_transform(model.image_size_hw, model.resize)
        find = model_detections(model.to(device).eval(), description, device)
        return Subject(find, transform, description["classes"], lambda: "torch", "")
    predictor = load(weights, engine or "auto", score_threshold=det.SCORE_THRESHOLD, nms=nms)
    if predictor.task == JOINT:
        raise InputError(f"{weights}: is a joint network; tools.eval_joint scores it")
    if not isinstance(predictor, det.Predictor):
        raise InputError(f"{weights}: is a model for {predictor.task}, not for detection; give the other run's file")
    return predictor_subject(predictor, predictor.network)


def predictor_subject(predictor: det.Predictor, network: Engine) -> Subject:
    """A predictor as what is scored.

    Arguments:
        network: what runs it: its own, or that of the joint network whose head it is.
    """
    transform = det.eval_transform(predictor.input_size_hw(predictor.image_size_hw), predictor.postprocess.resize)
    note = ""
    if isinstance(network, ExportedEngine) and network.score_threshold is not None:
        note = f"; the file gives boxes that score above {network.score_threshold:g}"
    return Subject(predictor_detections(predictor), transform, predictor.classes, lambda: predictor.engine, note)


def evaluate_model(
    model: nn.Module,
    dataset: det.CocoDetection,
    description: dict[str, Any],
    *,
    accelerator: Accelerator,
) -> list[dict]:
    """COCO results of a model in evaluation mode, as training wants them; see `model_detections` and `evaluate`."""
    return evaluate(model_detections(model, description, accelerator.device), dataset, accelerator=accelerator)


@torch.inference_mode()
def evaluate(find: Find, dataset: det.CocoDetection, *, accelerator: Accelerator, workers: int = 1) -> list[dict]:
    """COCO results of a detector, in the order of the images, for `det.run_coco_eval`.

    Over several processes each image is looked at once, and all processes get all results.

    Arguments:
        dataset: with a transform that makes images of the detector's size.
        workers: loader processes.
    """
    indices = shard(accelerator, len(dataset))
    loader = each_once(dataset, indices=indices, batch=BATCH, collate=det.collate, workers=workers)
    results = []
    with progress() as bar:
        task = bar.add_task("evaluating", total=len(indices))
        for batch in loader:
            detections = find(batch.images, batch.original_sizes_hw.tolist())
            results += det.to_results(detections, batch.image_ids.tolist(), dataset.category_ids)
            bar.advance(task, len(detections))
    order = {image_id: position for position, image_id in enumerate(dataset.image_ids)}
    everyones = [row for part in gather_parts(accelerator, results) for row in part]
    return sorted(everyones, key=lambda row: order[row["image_id"]])


def split_metrics(metrics: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """What `det.coco_metrics` gives, as the twelve metrics and the AP by class name."""
    per_class = {name.removeprefix("AP/"): value for name, value in metrics.items() if name.startswith("AP/")}
    return {name: value for name, value in metrics.items() if not name.startswith("AP/")}, per_class


def print_metrics(metrics: dict[str, float], per_class: dict[str, float]) -> None:
    """Prints COCO's metrics and the table of classes; -1 means that there was nothing to find."""
    rows = [[name, "nothing to find" if value < 0 else f"{value:.4f}"] for name, value in metrics.items()]
    console.print(table("COCO metrics", ["metric", "value"], rows))
    rows = [[name, "absent" if value < 0 else f"{100 * value:.2f}"] for name, value in per_class.items()]
    console.print(table("AP per class", ["class", "AP"], rows))
