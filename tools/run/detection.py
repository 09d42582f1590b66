"""Detection as a task to train: COCO, or data in its layout."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import det
from backbone.data.more import compose
from backbone.inference import normalise
from tools.io.leave_out import read_leave_out
from tools.io.model_file import load_initial_weights
from tools.run.config import DetConfig
from tools.run.task import Task
from tools.scoring.detection import SCORE_OF_LOSS, evaluate_model


def make_task(config: DetConfig, accelerator: Accelerator) -> Task:
    """The data, model and loss of a settled experiment.

    Raises:
        InputError: the data cannot be read, or the settings do not fit it.
    """
    size, mean, std = config.model.image_size, config.mean, config.std
    assert mean is not None and std is not None
    train_set = make_train_set(config)
    val_set = det.CocoDetection(
        config.data.root,
        config.data.val_split,
        transform=det.eval_transform(size, config.model.resize),
        categories=train_set.classes,
    )
    ground_truth = det.load_ground_truth(val_set.annotation_file)
    det.self_check(ground_truth, val_set)

    # The torchvision variant counts the background as a class.
    num_classes = len(train_set.classes) + (config.model.variant == "torchvision")
    model_arguments: dict[str, Any] = dataclasses.asdict(config.model) | {"num_classes": num_classes}
    model = det.create(**model_arguments)
    criterion = det.make_loss(model, **dataclasses.asdict(config.loss))
    description = {
        "task": "detection",
        "model": model_arguments,
        "classes": train_set.classes,
        "category_ids": train_set.category_ids,
        "score": SCORE_OF_LOSS[criterion.kind],
        "mean": mean,
        "std": std,
    }
    sizes_hw = training_sizes(size, config.augment.input_scale)
    anchors = {size_hw: model.anchors_for(size_hw).to(accelerator.device) for size_hw in sizes_hw}

    def loss(model: nn.Module, batch: det.Batch) -> dict[str, Tensor]:
        images = normalise(batch.images, mean, std, channels_last=config.run.channels_last)
        # Torch's generator is seeded by the step; it is left alone where there is nothing to draw.
        size_hw = sizes_hw[int(torch.randint(len(sizes_hw), ())) if len(sizes_hw) > 1 else 0]
        images, targets = det.scale_batch(images, batch.targets, size_hw)
        with accelerator.autocast():
            raw = model(images)
        return criterion(raw, anchors[size_hw], targets)

    def evaluate(model: nn.Module) -> dict[str, float]:
        results = evaluate_model(model, val_set, description, accelerator=accelerator)
        return det.evaluate(ground_truth, results, fast=det.has_fast())

    dropped = [f"{count} {reason}" for reason, count in train_set.dropped.items() if count]
    return Task(
        model=model,
        load_weights=lambda path: load_initial_weights(model, path, det.load_weights),
        train_set=train_set,
        val_set=val_set,
        collate=det.collate,
        loss=loss,
        evaluate=evaluate,
        score="AP",
        description=description,
        next_command=f"tools.eval_det --data {config.data.root}",
        notes=(f"annotations not trained on: {', '.join(dropped)}",) if dropped else (),
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


def training_sizes(image_size: Sequence[int], scales: Sequence[float]) -> list[tuple[int, int]]:
    """The input sizes (height, width) of which each step draws one, in pixels.

    Those of `det.input_sizes`; `image_size` alone where the scales are so near to 1 that they leave nothing to draw.
    """
    sizes_hw = det.input_sizes(image_size, scales)
    if len(sizes_hw) == 1 and scales[0] <= 1 <= scales[1]:
        return [(image_size[0], image_size[1])]
    return sizes_hw
