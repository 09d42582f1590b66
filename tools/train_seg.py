"""Trains a segmenter on Cityscapes, on data in its layout, or on any images and masks (data.classes=classes.yaml).

python -m tools.train_seg configs/cityscapes/lraspp_large.yaml data.root=/data/cityscapes run.out=runs/large
python -m tools.train_seg runs/large/config.yaml --resume
torchrun --nproc-per-node 4 -m tools.train_seg configs/cityscapes/lraspp_large.yaml data.root=/data/cityscapes
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

import seg
from backbone.data.more import compose
from backbone.errors import InputError
from backbone.inference import normalise
from seg.data.dataset import SegDataset, SegSample, collate
from seg.data.opening import open_data
from seg.data.transforms import TrainTransform
from seg.loss import LOSSES, balanced_weights
from tools.eval_seg import evaluate_model
from tools.io.console import console, run
from tools.io.model_file import load_initial_weights
from tools.run.config import SegConfig, parse_arguments
from tools.run.loop import device_text, make_accelerator, open_run, print_end, train


def make_losses(config: SegConfig, train_set: SegDataset) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The losses of an experiment by name, each with its settings and times its factor.

    Raises:
        InputError: a loss is unknown, or the weights of classes do not fit the data.
    """
    unknown = [name for name in config.loss if name not in LOSSES]
    if unknown:
        raise InputError(f"loss.{unknown[0]}: no such loss; valid: {', '.join(LOSSES)}")
    if not any(config.loss.values()):
        raise InputError("loss: every factor is 0; give one loss a factor above 0")
    settings, weights, count = config.loss_settings, config.loss_settings.class_weights, len(train_set.classes)
    if weights is not None and (len(weights) != count or min(weights) < 0 or settings.balanced):
        raise InputError(
            f"loss_settings.class_weights {weights} must be {count} numbers, none below 0, and without balanced"
        )
    if settings.balanced:
        weights = balanced_weights(train_set.label_counts())
        console.print("weights of classes: " + ", ".join(f"{weight:.1f}" for weight in weights), soft_wrap=True)
    keywords = {
        "cross_entropy": {"class_weights": weights, "label_smoothing": settings.label_smoothing},
        "ohem": {"class_weights": weights, "threshold": settings.threshold, "min_kept": settings.min_kept},
        "focal": {"gamma": settings.gamma},
    }

    def scaled(name: str, factor: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda logits, labels: factor * LOSSES[name](logits, labels, **keywords.get(name, {}))

    return {name: scaled(name, factor) for name, factor in config.loss.items() if factor}


def main(argv: list[str] | None = None) -> int:
    parsed = parse_arguments(SegConfig, argv, "train_seg", __doc__)
    if parsed is None:
        return 0
    config, resume = parsed
    state = open_run(config, resume)
    accelerator = make_accelerator(config.run.precision)

    augment = dataclasses.asdict(config.augment)
    crop_hw, more = tuple(augment.pop("crop_hw")), compose(augment.pop("more"))
    transform = TrainTransform(crop_hw, more=more, **augment | {"scale": tuple(augment["scale"])})
    data = config.data
    train_set = open_data(
        data.root,
        data.train_split,
        transform,
        classes=data.classes,
        annotation=data.train_labels,
        prepared=data.prepared,
        seed=config.run.seed,
    )
    val_set = open_data(data.root, data.val_split, classes=data.classes, prepared=data.prepared, limit=data.val_limit)

    torch.manual_seed(config.run.seed)
    model_arguments = dataclasses.asdict(config.model) | {"num_classes": len(train_set.classes)}
    model = seg.create(**model_arguments)
    if config.weights is not None and state is None:
        found = load_initial_weights(model, config.weights, seg.load_weights)
        console.print(f"weights: {config.weights} ({found})", soft_wrap=True)
    description = {
        "task": "segmentation",
        "model": model_arguments,
        "classes": train_set.classes,
        "colors": train_set.colors,
        "mean": config.mean,
        "std": config.std,
    }
    losses = make_losses(config, train_set)

    def loss(model: nn.Module, batch: SegSample) -> dict[str, Tensor]:
        images = normalise(batch.image, config.mean, config.std, channels_last=config.run.channels_last)
        with accelerator.autocast():
            if config.model.auxiliary:
                logits, extra = model(images, auxiliary=True)
            else:
                logits = model(images)
        terms = {f"{name}_loss": term(logits, batch.labels) for name, term in losses.items()}
        if config.model.auxiliary:
            factor = config.loss_settings.auxiliary
            terms["auxiliary_loss"] = factor * sum(term(extra, batch.labels) for term in losses.values())
        return terms

    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluate_model(model, val_set, mean=config.mean, std=config.std, accelerator=accelerator).scores

    if accelerator.is_main_process:
        console.print(f"{len(train_set)} training and {len(val_set)} validation images, {device_text(accelerator)}")
    code = train(
        config=config,
        accelerator=accelerator,
        model=model,
        description=description,
        dataset=train_set,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        score="miou",
        state=state,
    )
    if accelerator.is_main_process and code == 0:
        own = "" if data.classes is None else f" --classes {data.classes}"
        print_end(config, f"tools.eval_seg --data {data.root}{own}")
    return code


if __name__ == "__main__":
    run(main)
