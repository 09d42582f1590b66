"""Segmentation as a task to train: Cityscapes, data in its layout, or any images and masks."""

import dataclasses
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import seg
from backbone.data.more import compose
from backbone.errors import InputError
from backbone.inference import normalise
from seg.data.dataset import SegDataset, SegSample, collate
from seg.data.opening import open_data
from seg.data.transforms import TrainTransform
from seg.distill import distill_loss
from seg.loss import LOSSES, balanced_weights
from tools.io.leave_out import read_leave_out
from tools.io.model_file import load_initial_weights
from tools.run.config import SegConfig
from tools.run.loading import check_damage, damage_limit
from tools.run.samples import draw_segmentation
from tools.run.task import Task
from tools.run.teacher import Teacher
from tools.scoring.segmentation import WHOLE_IMAGES, evaluate_model, model_labels


def make_task(config: SegConfig, accelerator: Accelerator) -> Task:
    """The data, model and losses of a settled experiment.

    Raises:
        InputError: the data cannot be read, or the settings do not fit it.
    """
    data, mean, std = config.data, config.mean, config.std
    assert mean is not None and std is not None
    faults: list[str] | None = [] if data.damaged == "skip" else None
    train_set = make_train_set(config, faults)
    notes = [f"left out: {fault}" for fault in faults or ()]
    check_damage(faults or (), damage_limit(len(train_set) + len(notes)))
    val_set = open_data(data.root, data.val_split, classes=data.classes, prepared=data.prepared, limit=data.val_limit)
    weights = class_weights(config, train_set)
    losses = make_losses(config, weights)
    model_arguments: dict[str, Any] = dataclasses.asdict(config.model) | {"num_classes": len(train_set.classes)}
    model = seg.create(**model_arguments)
    description = {
        "task": "segmentation",
        "model": model_arguments,
        "classes": train_set.classes,
        "colors": train_set.colors,
        "mean": mean,
        "std": std,
    }
    teacher = None
    if config.teacher is not None:
        teacher = Teacher(
            config.teacher,
            task="segmentation",
            classes=train_set.classes,
            mean=mean,
            std=std,
            device=accelerator.device,
        )

    def loss(model: nn.Module, batch: SegSample) -> dict[str, Tensor]:
        images = normalise(batch.image, mean, std, channels_last=config.run.channels_last)
        with accelerator.autocast():
            wanted = None if teacher is None else teacher(images)
            logits, extra = model(images, auxiliary=True) if config.model.auxiliary else (model(images), None)
        terms = {f"{name}_loss": term(logits, batch.labels) for name, term in losses.items()}
        if extra is not None:
            factor = config.loss_settings.auxiliary
            second = [term(extra, batch.labels) for term in losses.values()]
            terms["auxiliary_loss"] = factor * reduce(torch.add, second)
        if wanted is not None:
            settings = config.distill
            distilled = distill_loss(logits, wanted, batch.labels, temperature=settings.temperature)
            terms["distill_loss"] = settings.weight * distilled
        return terms

    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluate_model(model, val_set, mean=mean, std=std, accelerator=accelerator).metrics

    def draw(model: nn.Module, number: int) -> np.ndarray:
        label = model_labels(model, mean=mean, std=std, device=accelerator.device, inference=WHOLE_IMAGES)
        return draw_segmentation(label, val_set, number)

    if weights is not None:
        notes.append("weights of classes: " + ", ".join(f"{weight:.1f}" for weight in weights))
    own = "" if data.classes is None else f" --classes {data.classes}"
    return Task(
        model=model,
        load_weights=lambda path: load_initial_weights(model, path, seg.load_weights),
        train_set=train_set,
        val_set=val_set,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        score="miou",
        description=description,
        next_command=f"tools.eval_seg --data {data.root}{own}",
        notes=tuple(notes),
        teacher=teacher,
        draw=draw,
    )


def make_train_set(config: SegConfig, faults: list[str] | None = None) -> SegDataset:
    """The data set that an experiment learns from, with its augmentation.

    Arguments:
        faults: as `SegDataset` takes it.
    Raises:
        InputError: the data cannot be read.
    """
    data, augment = config.data, config.augment
    height, width = augment.crop_hw
    smallest, largest = augment.scale
    transform = TrainTransform(
        (height, width),
        scale=(smallest, largest),
        brightness=augment.brightness,
        contrast=augment.contrast,
        saturation=augment.saturation,
        hue=augment.hue,
        more=compose(augment.more),
    )
    return open_data(
        data.root,
        data.train_split,
        transform,
        classes=data.classes,
        annotation=data.train_labels,
        prepared=data.prepared,
        seed=config.run.seed,
        faults=faults,
        leave_out=read_leave_out(data.leave_out, data.root),
    )


def class_weights(config: SegConfig, train_set: SegDataset) -> list[float] | None:
    """The weight of each class in cross_entropy and ohem; None for equal ones.

    Raises:
        InputError: those given do not fit the data.
    """
    settings, count = config.loss_settings, len(train_set.classes)
    given = settings.class_weights
    if given is not None and (len(given) != count or settings.balanced):
        raise InputError(f"loss_settings.class_weights {given} must be {count} numbers, and without balanced")
    return balanced_weights(train_set.label_counts()) if settings.balanced else given


def make_losses(config: SegConfig, weights: list[float] | None) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The losses of an experiment by name, each with its settings and times its factor.

    A loss takes logits [N, C, h, w] and labels [N, H, W] and gives a scalar.

    Arguments:
        weights: of the classes, as `class_weights` gives them.
    Raises:
        InputError: no loss has a factor.
    """
    if not any(config.loss.values()):
        raise InputError("loss: every factor is 0; give one loss a factor above 0")
    settings = config.loss_settings
    keywords = {
        "cross_entropy": {"class_weights": weights, "label_smoothing": settings.label_smoothing},
        "ohem": {"class_weights": weights, "threshold": settings.threshold, "min_kept": settings.min_kept},
        "focal": {"gamma": settings.gamma},
    }

    def scaled(name: str, factor: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda logits, labels: factor * LOSSES[name](logits, labels, **keywords.get(name, {}))

    return {name: scaled(name, factor) for name, factor in config.loss.items() if factor}
