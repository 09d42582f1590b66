"""Scores a classifier, ours or published weights, on a folder of images by class: top-1 and top-5.

python -m tools.eval_backbone --weights runs/large/best.safetensors --data /data/imagenet
python -m tools.eval_backbone --weights mobilenet_v3_large-5c1a4163.pth --data /data/imagenet
python -m tools.eval_backbone --weights tf_mobilenetv3_small_100.safetensors --data imagenette --classes wnids.txt

Size, crop, interpolation and normalisation are those that the weights expect: what one of our files says, timm's
config.json beside its weights (that of testing), or the publisher's usual ones.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

import backbone
from backbone.data.folder import ImageFolder, collate
from backbone.data.transforms import INTERPOLATIONS, eval_transform, shorter_side
from backbone.errors import InputError
from backbone.inference import normalise
from tools.io.console import console, num_workers, progress, run, table
from tools.io.files import open_folder, read_class_names, replace_file
from tools.io.model_file import find_description, load_tensors
from tools.run.processes import gather_parts, make_accelerator, shard, single_thread

BATCH = 32


class Evaluation(NamedTuple):
    """What an evaluation found."""

    scores: dict[str, float]  # top1, top5: shares of the images
    per_class: dict[str, float]  # top-1 of each class that has images
    predictions: list[tuple[int, int, float]]  # image, class, its probability; in the images' order


@torch.inference_mode()
def evaluate_model(
    model: nn.Module,
    dataset: ImageFolder,
    *,
    mean: list[float],
    std: list[float],
    accelerator: Any,
    workers: int = 1,
    first_class: int = 0,
) -> Evaluation:
    """Scores a model in evaluation mode; over several processes each image counts once and all get the result.

    Arguments:
        first_class: outputs before it are no classes of the data (TensorFlow's weights have a background first).
    """
    indices = shard(accelerator, len(dataset))
    loader = DataLoader(
        Subset(dataset, indices),
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=single_thread,
        timeout=300 * (workers > 0),
    )
    found: list[tuple[int, int, float, bool, bool]] = []
    with progress() as bar:
        for batch in bar.track(loader, total=len(loader), description="evaluating"):
            images = normalise(batch.image.to(accelerator.device), mean, std)
            probabilities = model(images)[:, first_class:].float().softmax(1).cpu()
            top = probabilities.topk(min(5, probabilities.shape[1]))
            hits = top.indices == batch.label[:, None]
            rows = (batch.index, top.indices[:, 0], top.values[:, 0], hits[:, 0], hits.any(1))
            found += zip(*(column.tolist() for column in rows), strict=True)
    merged = sorted(row for part in gather_parts(accelerator, found) for row in part)
    first, fifth = (sum(row[column] for row in merged) / len(merged) for column in (3, 4))
    per_class = {}
    for label, name in enumerate(dataset.classes):
        own = [row[3] for row in merged if dataset.labels[row[0]] == label]
        if own:
            per_class[name] = sum(own) / len(own)
    return Evaluation({"top1": first, "top5": fifth}, per_class, [row[:3] for row in merged])


def load_classifier(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier from our file or a published one, and its description; `classes` is None where none are named."""
    description = find_description(path)
    if description is not None:
        if description["task"] != "classification":
            tool = {"segmentation": "eval_seg", "detection": "eval_det"}[description["task"]]
            raise InputError(f"{path}: is a model for {description['task']}; use tools.{tool}")
        model = backbone.classifier(**description["model"])
        backbone.load_weights(model, load_tensors(path))
        return model, description
    found = backbone.from_weights(path)
    return found.classifier, found._asdict() | {"classes": None}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.eval_backbone", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, type=Path, help="best.safetensors of a run, or published weights")
    parser.add_argument("--data", required=True, type=Path, help="folder with SPLIT/CLASS/ and images in them")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--classes", type=Path, help="text file: the name of each output's class folder, a line each")
    parser.add_argument("--size", type=int, help="height and width of the crop; default: the weights'")
    parser.add_argument("--crop-pct", type=float, help="share of the shorter side in the crop; default: the weights'")
    parser.add_argument("--interpolation", choices=list(INTERPOLATIONS), help="default: the weights'")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights")
    parser.add_argument("--save-predictions", type=Path, metavar="CSV", help="write image, class and probability")
    parser.add_argument("--workers", type=num_workers, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)

    model, description = load_classifier(arguments.weights)
    in_channels = model.backbone.stem.conv.in_channels
    if in_channels != 3:
        raise InputError(f"{arguments.weights}: takes {in_channels} input channels; images have 3; give weights of RGB")
    names = description["classes"] if arguments.classes is None else read_class_names(arguments.classes)
    size = description["size"] if arguments.size is None else arguments.size
    crop_pct = description["crop_pct"] if arguments.crop_pct is None else arguments.crop_pct
    # Runs did not always record it: those that do not were evaluated on bilinear images.
    interpolation = arguments.interpolation or description.get("interpolation", "bilinear")
    if size < 8 or not 0 < crop_pct <= 1:
        raise InputError(f"--size {size} --crop-pct {crop_pct}: give a size of at least 8 and a share up to 1")
    transform = eval_transform(size, crop_pct=crop_pct, interpolation=interpolation)
    dataset = ImageFolder(arguments.data, arguments.split, transform, classes=names)
    outputs = model.output.out_features
    first_class = outputs - len(dataset.classes)
    if first_class not in (0, 1) or (first_class == 1 and outputs != 1001):
        raise InputError(
            f"{arguments.weights}: has {outputs} outputs, the data {len(dataset.classes)} classes; "
            "--classes FILE names the class folder of each output"
        )
    out = arguments.out or arguments.weights.parent
    accelerator = make_accelerator()
    if accelerator.is_main_process:
        open_folder(out)
    evaluation = evaluate_model(
        model.to(accelerator.device, memory_format=torch.channels_last).eval(),
        dataset,
        mean=description["mean"],
        std=description["std"],
        accelerator=accelerator,
        workers=arguments.workers,
        first_class=first_class,
    )
    if not accelerator.is_main_process:
        return 0
    worst = sorted(evaluation.per_class.items(), key=lambda item: item[1])[:20]
    rows = [[name, f"{100 * value:.2f}"] for name, value in worst]
    console.print(table(f"lowest top-1 of {len(evaluation.per_class)} classes", ["class", "top-1"], rows))
    metrics = {
        "task": "classification",
        "source": str(arguments.weights),
        "protocol": f"centre crop {size} of shorter side {shorter_side(size, crop_pct)}, {interpolation}",
        "split": arguments.split,
        "images": len(dataset),
        **evaluation.scores,
        "top1_per_class": evaluation.per_class,
    }
    replace_file(out / "metrics.json", lambda part: part.write_text(json.dumps(metrics, indent=1)))
    if arguments.save_predictions is not None:
        replace_file(arguments.save_predictions, lambda part: write_predictions(part, dataset, evaluation))
    scores = evaluation.scores
    console.print(
        f"top-1 {scores['top1']:.4f}, top-5 {scores['top5']:.4f} on {len(dataset)} images; {out / 'metrics.json'}",
        soft_wrap=True,
    )
    return 0


def write_predictions(path: Path, dataset: ImageFolder, evaluation: Evaluation) -> None:
    """One row for each image."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "class", "predicted", "probability"))
        for number, label, probability in evaluation.predictions:
            name = dataset.classes[dataset.labels[number]]
            rows.writerow((dataset.images[number], name, dataset.classes[label], f"{probability:.6f}"))


if __name__ == "__main__":
    run(main)
