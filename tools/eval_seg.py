"""Scores a segmenter, or label maps from anywhere, on Cityscapes or on data in its layout.

    python -m tools.eval_seg --weights runs/large/best.safetensors --data /data/cityscapes
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --save-predictions predictions
    python -m tools.eval_seg --predictions predictions --data /data/cityscapes --split val

Whole pictures at native resolution, one confusion matrix over the set. Predictions are label_id PNGs named
CITY_SEQ_FRAME*.png, as Cityscapes' test server takes them.
"""

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset

from backbone.errors import InputError
from backbone.images import read_label
from backbone.inference import normalise
from seg.cityscapes import LABEL_ID_OF_TRAIN_ID, TRAIN_ID_OF_LABEL_ID, Cityscapes, frame_name
from seg.label_map import label_map
from seg.metrics import confusion_matrix, iou_scores
from tools.checkpoint import replace_file
from tools.console import console, progress, run, table
from tools.loop import finite, gather_parts, shard, single_thread


class Evaluation(NamedTuple):
    """What an evaluation found."""

    scores: dict[str, float]  # miou, pixel_accuracy, iou/NAME
    confusion: np.ndarray  # int64 [K, K + 1]


@torch.inference_mode()
def evaluate_model(
    model: nn.Module,
    dataset: Cityscapes,
    *,
    mean: list[float],
    std: list[float],
    accelerator: Accelerator,
    workers: int = 1,
    save_to: Path | None = None,
) -> Evaluation:
    """Scores a model in evaluation mode; over several processes each picture counts once and all get the result."""
    device = accelerator.device
    indices = shard(accelerator, len(dataset))
    loader = DataLoader(
        Subset(dataset, indices),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=single_thread,
        timeout=300 * (workers > 0),
    )
    total = np.zeros((len(dataset.names), len(dataset.names) + 1), np.int64)
    with progress() as bar:
        for sample in bar.track(loader, total=len(indices), description="evaluating"):
            images = normalise(sample.image[None].to(device), mean, std, channels_last=True)
            predicted = label_map(model(images).float(), tuple(sample.labels.shape))[0].cpu().numpy()
            total += confusion_matrix(sample.labels.numpy(), predicted, len(dataset.names))
            if save_to is not None:
                save_prediction(save_to, dataset.pictures[sample.index], predicted)
    total = sum(gather_parts(accelerator, total))
    return Evaluation(iou_scores(total, dataset.names), total)


def evaluate_files(folder: Path, dataset: Cityscapes) -> Evaluation:
    """Scores label_id PNGs in a folder (or below it), one for each picture of the set."""
    found = {path.name: path for path in sorted(folder.rglob("*.png"))}
    total = np.zeros((len(dataset.names), len(dataset.names) + 1), np.int64)
    with progress() as bar:
        for sample in bar.track(dataset, total=len(dataset), description="scoring"):
            name = frame_name(dataset.pictures[sample.index])
            files = [path for file, path in found.items() if file == f"{name}.png" or file.startswith(f"{name}_")]
            if len(files) != 1:
                raise InputError(f"{folder}: {len(files)} files {name}*.png; there must be one prediction per picture")
            predicted = TRAIN_ID_OF_LABEL_ID[read_label(files[0])]
            if predicted.shape != tuple(sample.labels.shape):
                sizes = [f"{w}x{h}" for h, w in (predicted.shape, sample.labels.shape)]
                raise InputError(f"{files[0]}: is {sizes[0]}, its label {sizes[1]}; predictions have the labels' size")
            total += confusion_matrix(sample.labels.numpy(), predicted, len(dataset.names))
    return Evaluation(iou_scores(total, dataset.names), total)


def save_prediction(folder: Path, picture: Path, train_ids: np.ndarray) -> None:
    """Writes train ids as the label_id PNG that Cityscapes' evaluation reads."""
    path = folder / f"{frame_name(picture)}_pred_labelIds.png"
    replace_file(path, lambda part: Image.fromarray(LABEL_ID_OF_TRAIN_ID[train_ids]).save(part, "PNG"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.eval_seg", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, help="best.safetensors of a run")
    what.add_argument("--predictions", type=Path, help="folder of label_id PNGs to score without a model")
    parser.add_argument("--data", required=True, type=Path, help="folder with leftImg8bit/ and gtFine/")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights or predictions")
    parser.add_argument("--save-predictions", type=Path, metavar="DIR", help="write label_id PNGs there")
    parser.add_argument("--workers", type=int, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)

    dataset = Cityscapes(arguments.data, arguments.split)
    if arguments.weights is not None:
        from tools.predict import load_model

        accelerator = Accelerator()
        model, description = load_model(arguments.weights, task="segmentation")
        if description["classes"] != dataset.names:
            raise InputError(
                f"{arguments.weights}: was trained on other classes ({', '.join(description['classes'][:3])}, …)"
            )
        evaluation = evaluate_model(
            model.to(accelerator.device).eval(),
            dataset,
            mean=description["mean"],
            std=description["std"],
            accelerator=accelerator,
            workers=arguments.workers,
            save_to=arguments.save_predictions,
        )
        if not accelerator.is_main_process:
            return 0
    else:
        if not arguments.predictions.is_dir():
            raise InputError(f"{arguments.predictions}: no such folder of predictions")
        evaluation = evaluate_files(arguments.predictions, dataset)

    source = arguments.weights or arguments.predictions
    out = arguments.out or (source.parent if arguments.weights else source)
    print_scores(evaluation, dataset.names)
    report = {
        "task": "segmentation",
        "source": str(source),
        "protocol": "whole pictures, native resolution, one confusion matrix; miou over the classes in the labels",
        "split": arguments.split,
        "pictures": len(dataset),
        **{name: value for name, value in finite(evaluation.scores).items() if not name.startswith("iou/")},
        "iou": {name: finite(evaluation.scores)[f"iou/{name}"] for name in dataset.names},
        "confusion": evaluation.confusion.tolist(),
    }
    replace_file(out / "metrics.json", lambda part: part.write_text(json.dumps(report, indent=1)))
    console.print(
        f"mIoU {evaluation.scores['miou']:.4f} on {len(dataset)} pictures; {out / 'metrics.json'}", soft_wrap=True
    )
    return 0


def print_scores(evaluation: Evaluation, names: list[str]) -> None:
    """The table of classes: IoU and share of the labelled pixels."""
    labelled = evaluation.confusion.sum(1)
    rows = []
    for name, pixels in zip(names, labelled, strict=True):
        iou = evaluation.scores[f"iou/{name}"]
        share = f"{100 * pixels / max(1, labelled.sum()):.2f} %"
        rows.append([name, "absent" if math.isnan(iou) else f"{100 * iou:.2f}", share])
    console.print(table("IoU per class", ["class", "IoU", "pixels"], rows))


if __name__ == "__main__":
    run(main)
