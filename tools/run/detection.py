"""Detection as a task to train: COCO, or data in its layout."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import det
from backbone.data.more import compose
from backbone.inference import normalise
from det.distill import make_distill_loss
from det.dual_loss import DualLoss
from tools.io.leave_out import read_leave_out
from tools.io.model_file import load_initial_weights
from tools.run.config import DetConfig
from tools.run.samples import draw_detection
from tools.run.task import Task
from tools.run.teacher import Teacher
from tools.scoring.detection import SCORE_OF_LOSS, evaluate_model, model_detections


def make_task(config: DetConfig, accelerator: Accelerator) -> Task:
    """The data, model and loss of a settled experiment.

    Raises:
        InputError: the data cannot be read, or the settings do not fit it.
    """
    size, mean, std = config.model.image_size, config.mean, config.std
    assert mean is not None and std is not None
    train_set = make_train_set(config)
    val_set = make_val_set(config, train_set.classes)
    ground_truth = det.load_ground_truth(val_set.annotation_file)
    det.self_check(ground_truth, val_set)

    # All variants but the paper's count the background as a class.
    num_classes = len(train_set.classes) + (config.model.variant != "paper")
    model_arguments: dict[str, Any] = dataclasses.asdict(config.model) | {"num_classes": num_classes}
    model = det.create(**model_arguments)
    criterion = det.make_loss(model, **dataclasses.asdict(config.loss)).to(accelerator.device)
    description = {
        "task": "detection",
        "model": model_arguments,
        "classes": train_set.classes,
        "category_ids": train_set.category_ids,
        "score": SCORE_OF_LOSS[criterion.kind],
        "mean": mean,
        "std": std,
    }
    teacher = distill = None
    if config.teacher is not None:
        teacher = Teacher(
            config.teacher,
            task="detection",
            classes=train_set.classes,
            mean=mean,
            std=std,
            device=accelerator.device,
        )
        assert isinstance(teacher.model, det.Detector)  # as its task is
        own, score = SCORE_OF_LOSS[criterion.kind], teacher.description["score"]
        distill = make_distill_loss(
            model, teacher.model, kind=criterion.kind, scores=(own, score), source=config.teacher
        )
    sizes_hw = training_sizes(size, config.augment.input_scale)
    anchors = {size_hw: model.anchors_for(size_hw).to(accelerator.device) for size_hw in sizes_hw}

    def loss(model: nn.Module, batch: det.Batch) -> dict[str, Tensor]:
        images = normalise(batch.images, mean, std, channels_last=config.run.channels_last)
        size_hw = drawn_size(sizes_hw)
        images, targets = det.scale_batch(images, batch.targets, size_hw)
        with accelerator.autocast():
            wanted = None if teacher is None else teacher(images)
            raw = model(images, both=True) if config.model.one_to_one else model(images)
        terms = criterion(raw, anchors[size_hw], targets)
        if distill is not None and wanted is not None:
            taught = raw.one_to_many if config.model.one_to_one else raw
            terms |= {name: config.distill.weight * term for name, term in distill(taught, wanted).items()}
        return terms

    def evaluate(model: nn.Module) -> dict[str, float]:
        results = evaluate_model(model, val_set, description, accelerator=accelerator)
        return det.evaluate(ground_truth, results, fast=det.has_fast())

    def schedule(step: int) -> None:
        if isinstance(criterion, DualLoss):
            criterion.set_progress(step / max(1, config.run.steps - 1))

    def draw(model: nn.Module, number: int) -> np.ndarray:
        return draw_detection(model_detections(model, description, accelerator.device), val_set, number)

    return Task(
        model=model,
        load_weights=lambda path: load_initial_weights(model, path, partial(det.load_weights, as_start=True)),
        train_set=train_set,
        val_set=val_set,
        collate=det.collate,
        loss=loss,
        evaluate=evaluate,
        score="AP",
        description=description,
        next_command=f"tools.eval_det --data {config.data.root}",
        notes=notes_of(train_set),
        before_step=schedule,
        teacher=teacher,
        draw=draw,
    )


def make_train_set(config: DetConfig, annotations: Path | None = None, images: Path | None = None) -> det.CocoDetection:
    """The data set that an experiment learns from, with its augmentation.

    Arguments:
        annotations, images: as `det.CocoDetection` takes them.

    Raises:
        InputError: the data cannot be read.
    """
    size, augment = config.model.image_size, config.augment
    return det.CocoDetection(
        config.data.root,
        config.data.train_split,
        annotations=annotations,
        images=images,
        transform=det.train_transform(size, augment.strength, config.model.resize, compose(augment.more)),
        seed=config.run.seed,
        mosaic=augment.mosaic,
        mixup=augment.mixup,
        filter_empty=config.data.filter_empty,
        leave_out=read_leave_out(config.data.leave_out, config.data.root),
    )


def make_val_set(
    config: DetConfig, classes: Sequence[str], annotations: Path | None = None, images: Path | None = None
) -> det.CocoDetection:
    """The data set that an experiment is evaluated on; arguments as `make_train_set`, and the classes learned.

    Raises:
        InputError: the data cannot be read or have other classes.
    """
    return det.CocoDetection(
        config.data.root,
        config.data.val_split,
        annotations=annotations,
        images=images,
        transform=det.eval_transform(config.model.image_size, config.model.resize),
        categories=classes,
    )


def notes_of(train_set: det.CocoDetection) -> tuple[str, ...]:
    """A line about the annotations that are not trained on, if there are any."""
    dropped = [f"{count} {reason}" for reason, count in train_set.dropped.items() if count]
    return (f"annotations not trained on: {', '.join(dropped)}",) if dropped else ()


def drawn_size(sizes_hw: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """One of the sizes. Torch's generator, seeded by the step, is left alone where there is nothing to draw."""
    return sizes_hw[int(torch.randint(len(sizes_hw), ())) if len(sizes_hw) > 1 else 0]


def training_sizes(image_size: Sequence[int], scales: Sequence[float]) -> list[tuple[int, int]]:
    """The input sizes (height, width) of which each step draws one, in pixels.

    Those of `det.input_sizes`; `image_size` alone where the scales are so near to 1 that they leave nothing to draw.
    """
    sizes_hw = det.input_sizes(image_size, scales)
    if len(sizes_hw) == 1 and scales[0] <= 1 <= scales[1]:
        return [(image_size[0], image_size[1])]
    return sizes_hw
