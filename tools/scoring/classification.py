"""Scores a classifier, ours or published weights, on a folder of images by class."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

import backbone
from backbone.data.folder import ImageFolder, collate
from backbone.errors import InputError
from backbone.inference import normalise
from tools.io.console import progress
from tools.io.model_file import find_description, load_tensors
from tools.run.processes import gather_parts, shard
from tools.scoring.loaders import each_once

BATCH = 32


class Evaluation(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, float]  # top1, top5: shares of the images
    per_class: dict[str, float]  # top-1 of each class that has images
    predictions: list[tuple[int, int, float]]  # image, class, its probability; in the images' order


@torch.inference_mode()
def evaluate_model(
    model: nn.Module,
    dataset: ImageFolder,
    *,
    mean: list[float],
    std: list[float],
    accelerator: Accelerator,
    workers: int = 1,
    first_class: int = 0,
) -> Evaluation:
    """Scores a model in evaluation mode; over several processes each image counts once and all get the result.

    Arguments:
        model: images [N, 3, H, W] -> logits [N, first_class + K].
        dataset: with a transform that makes images of one size.
        mean, std: of the RGB values scaled to 0..1, as in training.
        workers: loader processes.
        first_class: outputs before it are no classes of the data (TensorFlow's weights have a background first).
    """
    indices = shard(accelerator, len(dataset))
    loader = each_once(dataset, indices=indices, batch=BATCH, collate=collate, workers=workers)
    found: list[tuple[int, int, float, bool, bool]] = []
    with progress() as bar:
        for batch in bar.track(loader, total=len(loader), description="evaluating"):
            images = normalise(batch.image.to(accelerator.device), mean, std)
            probabilities = model(images)[:, first_class:].float().softmax(1).cpu()
            top = probabilities.topk(min(5, probabilities.shape[1]))
            hits = top.indices == batch.label[:, None]
            rows = (batch.index, top.indices[:, 0], top.values[:, 0], hits[:, 0], hits.any(1))
            found += zip(*(column.tolist() for column in rows), strict=True)
    merged = sorted(row for part in gather_parts(accelerator, found) for row in part)
    first, fifth = (np.array([row[column] for row in merged]) for column in (3, 4))
    metrics = {"top1": float(first.mean()), "top5": float(fifth.mean())}
    return Evaluation(metrics, share_by_class(first, dataset.labels, dataset.classes), [row[:3] for row in merged])


def share_by_class(hits: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict[str, float]:
    """The share of hits, bool [N], among the images of each class that has images; labels are int [N]."""
    totals = np.bincount(labels, minlength=len(classes))
    counts = np.bincount(labels, weights=hits, minlength=len(classes))
    return {classes[label]: float(counts[label] / totals[label]) for label in np.flatnonzero(totals)}


def load_classifier(path: Path) -> tuple[backbone.Classifier, dict[str, Any]]:
    """A classifier from our file or a published one, and its description; `classes` is None where none are named.

    Raises:
        InputError: the file cannot be read, or is of a model for another task.
    """
    description = find_description(path)
    if description is not None:
        if description["task"] != "classification":
            tool = {"segmentation": "eval_seg", "detection": "eval_det"}[description["task"]]
            raise InputError(f"{path}: is a model for {description['task']}; use tools.{tool}")
        model = backbone.classifier(**description["model"])
        backbone.load_weights(model, load_tensors(path))
        return model, description
    found = backbone.from_weights(path)
    return found.classifier, found._asdict() | {"classes": None}


def write_predictions(path: Path, dataset: ImageFolder, evaluation: Evaluation) -> None:
    """Writes a table of one row for each image."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "class", "predicted", "probability"))
        for number, label, probability in evaluation.predictions:
            name = dataset.classes[dataset.labels[number]]
            rows.writerow((dataset.images[number], name, dataset.classes[label], f"{probability:.6f}"))
