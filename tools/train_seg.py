"""Trains a segmenter on Cityscapes or on data in its layout.

python -m tools.train_seg configs/cityscapes/lraspp_large.yaml data.root=/data/cityscapes run.out=runs/large
python -m tools.train_seg configs/cityscapes/lraspp_large.yaml run.out=runs/large --resume
torchrun --nproc-per-node 4 -m tools.train_seg configs/cityscapes/lraspp_large.yaml data.root=/data/cityscapes
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import backbone as backbones
import seg
from backbone.errors import InputError
from backbone.inference import normalise
from seg.cityscapes import Cityscapes, SegSample, collate
from seg.loss import LOSSES
from seg.transforms import train_transform
from tools.config import SegConfig, parse_arguments
from tools.console import console, run
from tools.eval_seg import evaluate_model
from tools.loop import make_accelerator, open_run, train

TORCHVISION_HEADS = ("classifier.cbr.", "backbone.extra.")


def main(argv: list[str] | None = None) -> int:
    parsed = parse_arguments(SegConfig, argv, "train_seg", __doc__)
    if parsed is None:
        return 0
    config, resume = parsed
    state = open_run(config, resume)
    accelerator = make_accelerator(config.run)

    augment = dataclasses.asdict(config.augment)
    crop_hw = tuple(augment.pop("crop_hw"))
    transform = train_transform(crop_hw, **augment | {"scale": tuple(augment["scale"])})
    train_set = Cityscapes(config.data.root, config.data.train_split, transform, seed=config.run.seed)
    val_set = Cityscapes(config.data.root, config.data.val_split, limit=config.data.val_limit)

    torch.manual_seed(config.run.seed)
    model_arguments = dataclasses.asdict(config.model) | {"num_classes": len(train_set.names)}
    model = seg.create(**model_arguments)
    if config.weights is not None and state is None:
        load_initial_weights(model, config.weights, seg.load_weights)
    description = {
        "task": "segmentation",
        "model": model_arguments,
        "classes": train_set.names,
        "colors": train_set.colors,
        "mean": config.mean,
        "std": config.std,
    }
    unknown = [name for name in config.loss if name not in LOSSES]
    if unknown:
        raise InputError(f"loss.{unknown[0]}: no such loss; valid: {', '.join(LOSSES)}")

    def loss(model: nn.Module, batch: SegSample) -> dict[str, Tensor]:
        images = normalise(batch.image, config.mean, config.std, channels_last=config.run.channels_last)
        with accelerator.autocast():
            logits = model(images)
        return {f"{name}_loss": factor * LOSSES[name](logits, batch.labels) for name, factor in config.loss.items()}

    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluate_model(model, val_set, mean=config.mean, std=config.std, accelerator=accelerator).scores

    if accelerator.is_main_process:
        console.print(f"{len(train_set)} training and {len(val_set)} validation pictures, {device_text(accelerator)}")
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
        best = Path(config.run.out) / "best.safetensors"
        console.print(f"done: {best}, {best.with_name('curves.png')}", soft_wrap=True)
        console.print(f"next: python -m tools.eval_seg --weights {best} --data {config.data.root}", soft_wrap=True)
    return code


def load_initial_weights(model: nn.Module, path: str, load_whole: Callable[[nn.Module, str], str]) -> None:
    """Starts from a file of the whole model where it has this model's head, else from the backbone in it."""
    state = backbones.read_weights(path)
    own_head = {name for name in model.state_dict() if name.startswith("head.")}
    whole = bool(own_head & state.keys()) or any(name.startswith(TORCHVISION_HEADS) for name in state)
    if whole:
        layout = load_whole(model, path)
    else:
        if "backbone.stem.conv.weight" in state:  # a model of another task: its head is not ours
            state = {name: value for name, value in state.items() if name.startswith("backbone.")}
        layout = backbones.load_weights(model.backbone, state)
    console.print(f"weights: {path} ({layout} layout, {'whole model' if whole else 'backbone'})", soft_wrap=True)


def device_text(accelerator: Accelerator) -> str:
    """`2 processes on cuda` and the like."""
    count = accelerator.num_processes
    return f"{count} process{'es' if count > 1 else ''} on {accelerator.device.type}"


if __name__ == "__main__":
    run(main)
