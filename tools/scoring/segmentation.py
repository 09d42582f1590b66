"""Scores a segmenter, or label maps in files, on a data set."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from backbone.data.images import read_ids, read_label
from backbone.errors import InputError
from backbone.inference import normalise
from seg.cityscapes_metrics import CATEGORIES, InstanceCounts, cityscapes_metrics
from seg.data import cityscapes
from seg.data.dataset import SegDataset
from seg.inference import Inference
from seg.metrics import confusion_matrix, iou_metrics
from seg.predictor import Predictor
from tools.io.console import console, progress, table
from tools.io.masks import save_mask
from tools.options import JOINT
from tools.predicting.models import load, load_model, runs_plainly
from tools.run.processes import gather_parts, shard
from tools.scoring.loaders import each_once
from tools.scoring.metrics_file import percent

MEANS = ("miou", "miiou", "category_miou", "category_miiou")
"""The four metrics of Cityscapes' leader board."""
WHOLE_IMAGES = Inference()
NUM_WORST = 6
"""Images in a report."""


class Shown(NamedTuple):
    """An image that a report shows."""

    miou: float  # over the classes in its labels
    number: int  # in the data set
    predicted_png: bytes  # labels, uint8 [H, W], as a PNG


class Evaluation(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, float]  # miou, pixel_accuracy, iou/NAME
    official: dict[str, float]  # by Cityscapes' own evaluation; empty for other data
    confusion: np.ndarray  # int64 [K, K + 1], rows by label
    worst: list[Shown]  # the images with the lowest mIoU, the lowest first


class Counts:
    """What is counted over a set, image by image; its size does not grow with the set.

    Arguments:
        instances: count instances too, where the set has them, for the official iIoU.
        num_worst: how many of the worst images to keep.
    """

    def __init__(self, dataset: SegDataset, *, instances: bool, num_worst: int) -> None:
        self.dataset, self.num_worst = dataset, num_worst
        self.confusion = np.zeros((len(dataset.classes), len(dataset.classes) + 1), np.int64)
        self.instance_files = dataset.instances if instances else None
        self.instances = None if self.instance_files is None else InstanceCounts()
        self.worst: list[Shown] = []

    def add(self, number: int, labels: np.ndarray, predicted_ids: np.ndarray) -> None:
        """Counts image `number` of the data set.

        Arguments:
            labels: uint8 [H, W], as the data set gives them; 255 does not count.
            predicted_ids: uint8 [H, W], values as files of predictions hold them.
        """
        predicted = self.dataset.labels_of_ids[predicted_ids]
        confusion = confusion_matrix(labels, predicted, len(self.dataset.classes))
        self.confusion += confusion
        if self.instances is not None and self.instance_files is not None:
            path = self.instance_files[number]
            self.instances.add(labels, predicted_ids, read_ids(path), path)
        if self.num_worst and confusion.any():
            miou = iou_metrics(confusion, self.dataset.classes)["miou"]
            if len(self.worst) < self.num_worst or miou < self.worst[-1].miou:
                png = cv2.imencode(".png", predicted)[1].tobytes()
                self.worst = lowest([*self.worst, Shown(miou, number, png)], self.num_worst)

    def result(self, accelerator: Accelerator | None = None) -> Evaluation:
        """The metrics over what all processes counted; every process gets them."""
        own = (self.confusion, self.instances, self.worst)
        confusions, instances, worst = zip(*(gather_parts(accelerator, own) if accelerator else [own]), strict=True)
        confusion = np.sum(confusions, axis=0)
        merged = None if self.instances is None else merge(instances)
        official = cityscapes_metrics(confusion, merged) if self.dataset.classes == cityscapes.NAMES else {}
        shown = lowest([image for part in worst for image in part], self.num_worst)
        return Evaluation(iou_metrics(confusion, self.dataset.classes), official, confusion, shown)


def lowest(images: list[Shown], count: int) -> list[Shown]:
    """The images with the lowest mIoU, the same ones whatever the order they come in."""
    return sorted(images, key=lambda image: (image.miou, image.number))[:count]


def merge(parts: Iterable[InstanceCounts]) -> InstanceCounts:
    """The counts of all parts of a set."""
    total = InstanceCounts()
    for part in parts:
        total.merge(part)
    return total


class Subject(NamedTuple):
    """A segmenter that is scored, whatever runs it."""

    label: Callable[[Tensor], np.ndarray]  # image uint8 RGB [3, H, W] -> labels uint8 [H, W]
    classes: list[str]
    engine: Callable[[], str]  # what ran it, once it has run


def protocol(inference: Inference) -> str:
    """How images are scored, as metrics.json says it."""
    return f"{inference.describe()}, native resolution, one confusion matrix; miou over the classes in the labels"


def model_labels(
    model: nn.Module, *, mean: list[float], std: list[float], device: torch.device, inference: Inference
) -> Callable[[Tensor], np.ndarray]:
    """The function from an image uint8 RGB [3, H, W] to labels uint8 [H, W] by a model in evaluation mode."""

    def label(image: Tensor) -> np.ndarray:
        images = normalise(image[None].to(device), mean, std, channels_last=True)
        return inference.labels(model, images)[0].cpu().numpy()

    return label


def open_subject(weights: Path, engine: str | None, inference: Inference, device: torch.device) -> Subject:
    """The segmenter in a weights file or an exported file.

    Arguments:
        engine: one of `tools.options.ENGINES`; None: torch, or an exported file's own.

    Raises:
        InputError: the file or the engine cannot be used, or the engine not with this protocol.
    """
    if runs_plainly(weights, engine):
        model, description = load_model(weights, task="segmentation")
        normalisation = {"mean": description["mean"], "std": description["std"]}
        label = model_labels(model.to(device).eval(), **normalisation, device=device, inference=inference)
        return Subject(label, description["classes"], lambda: "torch")
    if inference != WHOLE_IMAGES:
        raise InputError("--window, --stride, --scales and --flip need --engine torch and the weights of a run")
    predictor = load(weights, engine or "auto")
    if predictor.task == JOINT:
        raise InputError(f"{weights}: is a joint network; tools.eval_joint scores it")
    if not isinstance(predictor, Predictor):
        raise InputError(f"{weights}: is a model for {predictor.task}, not for segmentation; give the other run's file")

    def label_frame(image: Tensor) -> np.ndarray:
        return predictor(image.permute(1, 2, 0).flip(-1).numpy()).labels

    return Subject(label_frame, predictor.classes, lambda: predictor.engine)


def evaluate_model(
    model: nn.Module, dataset: SegDataset, *, mean: list[float], std: list[float], accelerator: Accelerator
) -> Evaluation:
    """Scores a model in evaluation mode on whole images, as training does.

    Arguments:
        model: images [N, 3, H, W] -> logits [N, K, h, w].
        dataset: without a transform: images are scored at their own size.
        mean, std: of the RGB values scaled to 0..1, as in training.
    """
    label = model_labels(model, mean=mean, std=std, device=accelerator.device, inference=WHOLE_IMAGES)
    return evaluate(label, dataset, accelerator=accelerator)


@torch.inference_mode()
def evaluate(
    label: Callable[[Tensor], np.ndarray],
    dataset: SegDataset,
    *,
    accelerator: Accelerator,
    workers: int = 1,
    instances: bool = False,
    num_worst: int = 0,
    save_to: Path | None = None,
) -> Evaluation:
    """Scores what makes labels of images; over several processes each image counts once and all get the result.

    Arguments:
        label: image uint8 RGB [3, H, W] -> labels uint8 [H, W].
        dataset: without a transform: images are scored at their own size.
        workers: loader processes.
        instances, num_worst: as `Counts` takes them.
        save_to: folder for the predictions.
    """
    indices = shard(accelerator, len(dataset))
    loader = each_once(dataset, indices=indices, workers=workers)
    counts = Counts(dataset, instances=instances, num_worst=num_worst)
    with progress() as bar:
        for sample in bar.track(loader, total=len(indices), description="evaluating"):
            predicted_ids = dataset.ids[label(sample.image)]
            counts.add(sample.index, sample.labels.numpy(), predicted_ids)
            if save_to is not None:
                save_mask(save_to / dataset.prediction_name(sample.index), predicted_ids)
    return counts.result(accelerator)


def evaluate_files(
    folder: Path, dataset: SegDataset, *, accelerator: Accelerator | None = None, num_worst: int = 0
) -> Evaluation:
    """Scores the predictions in a folder, one for each image of the set, whoever made them; decodes no image.

    Arguments:
        accelerator: shares the images among its processes; all get the result.
        num_worst: as `Counts` takes it.

    Raises:
        InputError: an image has no prediction or more than one, or a prediction is not of the size of the labels.
    """
    counts = Counts(dataset, instances=True, num_worst=num_worst)
    files = dataset.find_predictions(folder)
    indices = range(len(files)) if accelerator is None else shard(accelerator, len(files))
    with progress() as bar:
        for index in bar.track(indices, description="scoring"):
            labels, predicted_ids = dataset.labels_of_image(index), read_label(files[index])
            if predicted_ids.shape != labels.shape:
                sizes = [f"{width}x{height}" for height, width in (predicted_ids.shape, labels.shape)]
                raise InputError(
                    f"{files[index]}: is {sizes[0]}, its label {sizes[1]}; predictions have the labels' size"
                )
            counts.add(index, labels, predicted_ids)
    return counts.result(accelerator)


def print_metrics(evaluation: Evaluation, classes: list[str]) -> None:
    """Prints tables of classes and categories: IoU, iIoU where instances are known, share of the labelled pixels."""
    labelled, official = evaluation.confusion.sum(1), evaluation.official
    with_instances = "miiou" in official
    rows = []
    for name, pixels in zip(classes, labelled, strict=True):
        iou = evaluation.metrics[f"iou/{name}"]
        share = f"{100 * pixels / max(1, labelled.sum()):.2f} %"
        instance_iou = [percent(official.get(f"iiou/{name}", math.nan))] if with_instances else []
        rows.append([name, "absent" if math.isnan(iou) else percent(iou), *instance_iou, share])
    console.print(table("IoU per class", ["class", "IoU", *(["iIoU"] if with_instances else []), "pixels"], rows))
    if official:
        kinds = ["category_iou", "category_iiou"] if with_instances else ["category_iou"]
        rows = [[name, *(percent(official.get(f"{kind}/{name}", math.nan)) for kind in kinds)] for name in CATEGORIES]
        console.print(table("IoU per category", ["category", "IoU", "iIoU"][: 1 + len(kinds)], rows))
        means = [f"{name} {official[name]:.4f}" for name in MEANS if name in official]
        console.print(f"official evaluation: {', '.join(means)}", soft_wrap=True)
