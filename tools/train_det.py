"""Trains a detector on COCO or on data in its layout.

python -m tools.train_det configs/coco/ssdlite_large.yaml data.root=/data/coco run.out=runs/large
python -m tools.train_det runs/large/config.yaml --resume
torchrun --nproc-per-node 4 -m tools.train_det configs/coco/ssdlite_large.yaml data.root=/data/coco
"""

import dataclasses

import torch
from torch import Tensor, nn

import det
from backbone.data.more import compose
from backbone.inference import normalise
from tools.eval_det import SCORE_OF_LOSS, evaluate_model
from tools.io.console import console, run
from tools.io.model_file import load_initial_weights
from tools.run.config import DetConfig, parse_arguments
from tools.run.loop import device_text, make_accelerator, open_run, print_end, train


def main(argv: list[str] | None = None) -> int:
    parsed = parse_arguments(DetConfig, argv, "train_det", __doc__)
    if parsed is None:
        return 0
    config, resume = parsed
    state = open_run(config, resume)
    accelerator = make_accelerator(config.run.precision)

    size = config.model.image_size
    train_set = det.CocoDetection(
        config.data.root,
        config.data.train_split,
        transform=det.train_transform(size, config.augment.strength, config.model.resize, compose(config.augment.more)),
        seed=config.run.seed,
        mosaic=config.augment.mosaic,
        mixup=config.augment.mixup,
        filter_empty=config.data.filter_empty,
    )
    val_set = det.CocoDetection(
        config.data.root,
        config.data.val_split,
        transform=det.eval_transform(size, config.model.resize),
        categories=train_set.classes,
    )
    ground_truth = det.load_ground_truth(val_set.annotation_file)
    det.self_check(ground_truth, val_set)

    torch.manual_seed(config.run.seed)
    # The torchvision variant counts the background as a class.
    num_classes = len(train_set.classes) + (config.model.variant == "torchvision")
    model_arguments = dataclasses.asdict(config.model) | {"num_classes": num_classes}
    model = det.create(**model_arguments)
    if config.weights is not None and state is None:
        found = load_initial_weights(model, config.weights, det.load_weights)
        console.print(f"weights: {config.weights} ({found})", soft_wrap=True)
    description = {
        "task": "detection",
        "model": model_arguments,
        "classes": train_set.classes,
        "category_ids": train_set.category_ids,
        "score": SCORE_OF_LOSS[config.loss.kind],
        "mean": config.mean,
        "std": config.std,
    }
    criterion = det.DetectionLoss(background=model.background, **dataclasses.asdict(config.loss))
    scales = config.augment.input_scale
    sizes_hw = [tuple(size)] if scales == [1.0, 1.0] else det.input_sizes(size, scales)
    anchors = [model.anchors_for(size_hw).to(accelerator.device) for size_hw in sizes_hw]

    def loss(model: nn.Module, batch: det.Batch) -> dict[str, Tensor]:
        images = normalise(batch.images, config.mean, config.std, channels_last=config.run.channels_last)
        targets, drawn = batch.targets, 0
        if len(sizes_hw) > 1:
            drawn = int(torch.randint(len(sizes_hw), ()))  # the loop seeds this by the step
            images, targets = det.scale_batch(images, targets, sizes_hw[drawn])
        with accelerator.autocast():
            raw = model(images)
        return criterion(raw, anchors[drawn], targets)

    def evaluate(model: nn.Module) -> dict[str, float]:
        results = evaluate_model(model, val_set, description, accelerator=accelerator)
        return det.evaluate(ground_truth, results, fast=det.has_fast())

    if accelerator.is_main_process:
        console.print(f"{len(train_set)} training and {len(val_set)} validation images, {device_text(accelerator)}")
        dropped = {reason: count for reason, count in train_set.dropped.items() if count}
        if dropped:
            console.print(f"annotations not trained on: {', '.join(f'{n} {reason}' for reason, n in dropped.items())}")
    code = train(
        config=config,
        accelerator=accelerator,
        model=model,
        description=description,
        dataset=train_set,
        collate=det.collate,
        loss=loss,
        evaluate=evaluate,
        score="AP",
        state=state,
    )
    if accelerator.is_main_process and code == 0:
        print_end(config, f"tools.eval_det --data {config.data.root}")
    return code


if __name__ == "__main__":
    run(main)
