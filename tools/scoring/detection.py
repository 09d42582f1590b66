"""Scores a detector on a data set."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

import det
from backbone.inference import normalise
from tools.io.console import console, progress, table
from tools.run.processes import gather_parts, shard
from tools.scoring.loaders import each_once

SCORE_OF_LOSS = {"softmax": "softmax", "focal": "sigmoid", "quality_focal": "sigmoid"}
"""What turns logits into scores, by the loss they were trained with."""

BATCH = 16


@torch.inference_mode()
def evaluate_model(
    model: nn.Module,
    dataset: det.CocoDetection,
    description: dict[str, Any],
    *,
    accelerator: Accelerator,
    workers: int = 1,
) -> list[dict]:
    """COCO results of a model in evaluation mode, in the order of the images, for `det.run_coco_eval`.

    Over several processes each image is looked at once, and all processes get all results.

    Arguments:
        model: images [N, 3, H, W] -> `det.RawDetections`.
        dataset: with a transform that makes images of the model's size.
        description: `mean`, `std` and `score` of the model, as its weights file has them.
        workers: loader processes.
    """
    assert isinstance(model, det.Detector)
    indices = shard(accelerator, len(dataset))
    loader = each_once(dataset, indices=indices, batch=BATCH, collate=det.collate, workers=workers)
    nms_iou = description.get("nms_iou", det.NMS_IOU)  # only converted files name it
    finish = det.PostProcess(
        description["score"], model.background, nms_iou=nms_iou, resize=model.resize, decode=model.head.decode
    )
    results = []
    with progress() as bar:
        task = bar.add_task("evaluating", total=len(indices))
        for batch in loader:
            images = batch.images.to(accelerator.device)
            images = normalise(images, description["mean"], description["std"], channels_last=True)
            detections = finish(model(images), model.anchors, model.image_size_hw, batch.original_sizes_hw.tolist())
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
