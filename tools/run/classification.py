"""Classification as a task to train: a folder of images by class, from scratch or from any published weights."""

import dataclasses
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

import backbone
from backbone.blocks import DropBlock
from backbone.data.folder import ImageFolder, Sample, collate
from backbone.data.transforms import eval_transform, train_transform
from backbone.inference import normalise
from backbone.weights.layouts import recognise
from tools.io.leave_out import read_leave_out
from tools.io.model_file import find_description
from tools.run.config import BackboneConfig
from tools.run.task import Task
from tools.scoring.classification import evaluate_model


def make_task(config: BackboneConfig, accelerator: Accelerator) -> Task:
    """The data, model and loss of a settled experiment.

    Raises:
        InputError: the data cannot be read, or the settings do not fit it.
    """
    data, augment, mean, std = config.data, config.augment, config.mean, config.std
    assert mean is not None and std is not None
    smallest, largest = augment.scale
    transform = train_transform(
        augment.size,
        scale=(smallest, largest),
        flip=augment.flip,
        jitter=augment.jitter,
        policy=augment.policy,
        erase=augment.erase,
    )
    left_out = read_leave_out(data.leave_out, data.root)
    train_set = ImageFolder(data.root, data.train_split, transform, seed=config.run.seed, leave_out=left_out)
    as_evaluated = eval_transform(augment.size, crop_pct=data.crop_pct)
    val_set = ImageFolder(data.root, data.val_split, as_evaluated, classes=train_set.classes)

    num_classes = len(train_set.classes)
    model_arguments: dict[str, Any] = dataclasses.asdict(config.model) | {"num_classes": num_classes}
    model = backbone.classifier(**model_arguments)
    description = {
        "task": "classification",
        "model": model_arguments,
        "classes": train_set.classes,
        "mean": mean,
        "std": std,
        "size": augment.size,
        "crop_pct": data.crop_pct,
        "interpolation": "bilinear",
    }
    mixers = []
    if augment.mixup:
        mixers.append(v2.MixUp(alpha=augment.mixup, num_classes=num_classes))
    if augment.cutmix:
        mixers.append(v2.CutMix(alpha=augment.cutmix, num_classes=num_classes))

    def loss(model: nn.Module, batch: Sample) -> dict[str, Tensor]:
        images = normalise(batch.image, mean, std, channels_last=config.run.channels_last)
        labels = batch.label
        if mixers:
            images, labels = mixers[int(torch.randint(len(mixers), ()))](images, labels)
        with accelerator.autocast():
            logits = model(images)
        return {
            "cross_entropy_loss": F.cross_entropy(logits.float(), labels, label_smoothing=config.loss.label_smoothing)
        }

    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluate_model(model, val_set, mean=mean, std=std, accelerator=accelerator).metrics

    drop_blocks = [module for module in model.modules() if isinstance(module, DropBlock)]

    def schedule_drop_block(step: int) -> None:
        for module in drop_blocks:
            module.p = config.model.drop_block * (step + 1) / config.run.steps

    return Task(
        model=model,
        load_weights=lambda path: load_start(model, path, train_set.classes),
        train_set=train_set,
        val_set=val_set,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        score="top1",
        description=description,
        next_command=f"tools.eval_backbone --data {data.root} --split {data.val_split}",
        notes=(f"{num_classes} classes",),
        before_step=schedule_drop_block,
    )


def load_start(model: backbone.Classifier, path: str, classes: list[str]) -> str:
    """Loads a classifier's weights, its output layer only if it is for these classes, or the backbone of another model.

    Published files do not name their classes: an output layer of the same size is taken as fitting.

    Returns:
        What was found in the file, for a person to read.
    Raises:
        InputError: the file does not fit the model.
    """
    state = backbone.read_weights(path)
    if any(name.startswith("head.") for name in state):  # a segmenter or detector
        layout = backbone.load_weights(
            model.backbone, {name: value for name, value in state.items() if name.startswith("backbone.")}
        )
        return f"backbone, {layout} layout"
    layout = recognise(state, path)
    outputs = layout.state.get("output.weight")
    if outputs is None:
        return f"backbone, {backbone.load_weights(model.backbone, path)} layout"
    fits = len(outputs) == len(classes)
    if fits and (description := find_description(path)) is not None:
        fits = description["classes"] == classes
    backbone.load_weights(model, path, keep_output=not fits)
    return f"{layout.name} layout, {'whole' if fits else f'without its output layer for {len(outputs)} classes'}"
