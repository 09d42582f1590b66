"""Trains a classifier on a folder of images by class, from scratch or from any published weights.

python -m tools.train_backbone configs/imagenet/torchvision_large.yaml data.root=/data/imagenet run.out=runs/large
python -m tools.train_backbone configs/imagenet/finetune.yaml data.root=flowers weights=mobilenet_v3_large.pth
python -m tools.train_backbone runs/large/config.yaml --resume
python -m tools.train_backbone configs/imagenet/finetune.yaml data.root=flowers --find-lr    # leaves lr_range.png
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

import backbone
from backbone.blocks import DropBlock
from backbone.data.folder import ImageFolder, Sample, collate
from backbone.data.transforms import eval_transform, train_transform
from backbone.errors import InputError
from backbone.inference import normalise
from backbone.weights.layouts import recognise
from backbone.weights.loading import expected_preprocessing
from backbone.weights.preprocessing import Preprocessing
from tools.io.console import console, run
from tools.io.model_file import find_description
from tools.run.config import BackboneConfig, parse_arguments
from tools.run.loop import device_text, make_accelerator, open_run, print_end, train
from tools.scoring.classification import evaluate_model


def main(argv: list[str] | None = None) -> int:
    parsed = parse_arguments(BackboneConfig, argv, "train_backbone", __doc__)
    if parsed is None:
        return 0
    config, resume = parsed
    if config.run.compile and config.model.drop_block:
        raise InputError("run.compile with model.drop_block: its probability changes in every step; choose one of them")
    config = with_normalisation(config)
    state = open_run(config, resume)
    accelerator = make_accelerator(config.run.precision)

    data, augment = config.data, dataclasses.asdict(config.augment)
    size = augment.pop("size")
    mixes = {v2.MixUp: augment.pop("mixup"), v2.CutMix: augment.pop("cutmix")}
    transform = train_transform(size, **augment | {"scale": tuple(augment["scale"])})
    train_set = ImageFolder(data.root, data.train_split, transform, seed=config.run.seed)
    as_evaluated = eval_transform(size, crop_pct=data.crop_pct)
    val_set = ImageFolder(data.root, data.val_split, as_evaluated, classes=train_set.classes)

    torch.manual_seed(config.run.seed)
    model_arguments = dataclasses.asdict(config.model) | {"num_classes": len(train_set.classes)}
    model = backbone.classifier(**model_arguments)
    if config.weights is not None and state is None:
        console.print(f"weights: {config.weights} ({load_start(model, config.weights, train_set.classes)})")
    description = {
        "task": "classification",
        "model": model_arguments,
        "classes": train_set.classes,
        "mean": config.mean,
        "std": config.std,
        "size": size,
        "crop_pct": data.crop_pct,
        "interpolation": "bilinear",
    }
    mixers = [kind(alpha=alpha, num_classes=len(train_set.classes)) for kind, alpha in mixes.items() if alpha]

    def loss(model: nn.Module, batch: Sample) -> dict[str, Tensor]:
        images = normalise(batch.image, config.mean, config.std, channels_last=config.run.channels_last)
        labels = batch.label
        if mixers:
            images, labels = mixers[int(torch.randint(len(mixers), ()))](images, labels)
        with accelerator.autocast():
            logits = model(images)
        return {
            "cross_entropy_loss": F.cross_entropy(logits.float(), labels, label_smoothing=config.loss.label_smoothing)
        }

    def evaluate(model: nn.Module) -> dict[str, float]:
        return evaluate_model(model, val_set, mean=config.mean, std=config.std, accelerator=accelerator).metrics

    drop_blocks = [module for module in model.modules() if isinstance(module, DropBlock)]

    def schedule_drop_block(step: int) -> None:
        for module in drop_blocks:
            module.p = config.model.drop_block * (step + 1) / config.run.steps

    if accelerator.is_main_process:
        console.print(
            f"{len(train_set)} training and {len(val_set)} validation images of {len(train_set.classes)} classes, "
            f"{device_text(accelerator)}"
        )
    code = train(
        config=config,
        accelerator=accelerator,
        model=model,
        description=description,
        dataset=train_set,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        score="top1",
        state=state,
        before_step=schedule_drop_block,
    )
    if accelerator.is_main_process and code == 0:
        print_end(config, f"tools.eval_backbone --data {data.root} --split {data.val_split}")
    return code


def with_normalisation(config: BackboneConfig) -> BackboneConfig:
    """The config with the inputs' mean and deviation filled in where it leaves them to the weights."""
    if config.mean is not None and config.std is not None:
        return config
    inputs = Preprocessing() if config.weights is None else expected_preprocessing(config.weights)
    return dataclasses.replace(config, mean=config.mean or list(inputs.mean), std=config.std or list(inputs.std))


def load_start(model: backbone.Classifier, path: str, classes: list[str]) -> str:
    """Loads a classifier's weights, its output layer only if it is for these classes, or the backbone of another model.

    Published files do not name their classes: an output layer of the same size is taken as fitting.
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


if __name__ == "__main__":
    run(main)
