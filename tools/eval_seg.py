"""Scores a segmenter, or label maps from anywhere, on Cityscapes, on data in its layout, or on one's own.

    python -m tools.eval_seg --weights runs/large/best.safetensors --data /data/cityscapes
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --report
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --save-predictions predictions
    python -m tools.eval_seg --predictions predictions --data /data/cityscapes --split val
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --scales 0.75 1 1.25 --flip
    python -m tools.eval_seg --weights best.safetensors --data garden --classes garden/classes.yaml

Whole images at native resolution, one confusion matrix over the set. Predictions are label_id PNGs named
CITY_SEQ_FRAME*.png, as Cityscapes' test server takes them; for the test split, whose labels are secret, they are
written and not scored. `miou` is over the classes in the labels; the official evaluation's figures stand beside it.
"""

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from rich.markup import escape
from torch import nn
from torch.utils.data import DataLoader, Subset

from backbone.data.images import read_ids, read_label
from backbone.errors import InputError
from backbone.inference import normalise
from seg.cityscapes_scores import CATEGORIES, InstanceCounts, cityscapes_scores
from seg.data import cityscapes
from seg.data.dataset import SegDataset
from seg.data.opening import open_data
from seg.inference import Inference
from seg.metrics import confusion_matrix, iou_scores
from tools.io.console import console, num_workers, progress, run, table
from tools.io.files import open_folder, replace_file
from tools.run.evaluation import finite
from tools.run.processes import gather_parts, make_accelerator, shard, single_thread
from tools.scoring.report_seg import Shown, write_report

MEANS = ("miou", "miiou", "category_miou", "category_miiou")
"""The four figures of Cityscapes' leader board."""
WHOLE_IMAGES = Inference()
NUM_WORST = 6  # images in a report


class Evaluation(NamedTuple):
    """What an evaluation found."""

    scores: dict[str, float]  # miou, pixel_accuracy, iou/NAME
    official: dict[str, float]  # by Cityscapes' own evaluation; empty for other data
    confusion: np.ndarray  # int64 [K, K + 1]
    worst: list[Shown]  # the images with the lowest mIoU, the lowest first


class Counts:
    """What is counted over a set, image by image; its size does not grow with the set.

    Arguments:
        instances: count instances too, where the set has them, for the official iIoU.
        num_worst: how many of the worst images to keep.
    """

    def __init__(self, dataset: SegDataset, *, instances: bool, num_worst: int) -> None:
        self.dataset, self.num_worst = dataset, num_worst
        self.confusion = np.zeros((len(dataset.classes), len(dataset.classes) + 1), np.int64)
        self.instances = InstanceCounts() if instances and dataset.instances is not None else None
        self.worst: list[Shown] = []

    def add(self, number: int, labels: np.ndarray, predicted_ids: np.ndarray) -> None:
        """Counts image `number`: labels as the data set gives them, predictions as files hold them, uint8 [H, W]."""
        predicted = self.dataset.labels_of_ids[predicted_ids]
        confusion = confusion_matrix(labels, predicted, len(self.dataset.classes))
        self.confusion += confusion
        if self.instances is not None:
            path = self.dataset.instances[number]
            self.instances.add(labels, predicted_ids, read_ids(path), path)
        if self.num_worst and confusion.any():
            score = iou_scores(confusion, self.dataset.classes)["miou"]
            if len(self.worst) < self.num_worst or score < self.worst[-1].score:
                png = cv2.imencode(".png", predicted)[1].tobytes()
                self.worst = lowest([*self.worst, Shown(score, number, png)], self.num_worst)

    def result(self, accelerator: Accelerator | None = None) -> Evaluation:
        """The scores over what all processes counted; every process gets them."""
        own = (self.confusion, self.instances, self.worst)
        confusions, instances, worst = zip(*(gather_parts(accelerator, own) if accelerator else [own]), strict=True)
        confusion = sum(confusions)
        merged = None if self.instances is None else merge(instances)
        official = cityscapes_scores(confusion, merged) if self.dataset.classes == cityscapes.NAMES else {}
        shown = lowest([image for part in worst for image in part], self.num_worst)
        return Evaluation(iou_scores(confusion, self.dataset.classes), official, confusion, shown)


def lowest(images: list[Shown], count: int) -> list[Shown]:
    """The images with the lowest scores, the same ones whatever the order they come in."""
    return sorted(images, key=lambda image: (image.score, image.number))[:count]


@torch.inference_mode()
def evaluate_model(
    model: nn.Module,
    dataset: SegDataset,
    *,
    mean: list[float],
    std: list[float],
    accelerator: Accelerator,
    workers: int = 1,
    inference: Inference = WHOLE_IMAGES,
    instances: bool = False,
    num_worst: int = 0,
    save_to: Path | None = None,
) -> Evaluation:
    """Scores a model in evaluation mode; over several processes each image counts once and all get the result.

    Arguments:
        instances, num_worst: as `Counts` takes them.
        save_to: folder for the predictions.
    """
    device = accelerator.device
    indices = shard(accelerator, len(dataset))
    loader = DataLoader(
        Subset(dataset, indices),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=single_thread,
        timeout=300 * (workers > 0),
    )
    counts = Counts(dataset, instances=instances, num_worst=num_worst)
    with progress() as bar:
        for sample in bar.track(loader, total=len(indices), description="evaluating"):
            images = normalise(sample.image[None].to(device), mean, std, channels_last=True)
            predicted = inference.labels(model, images)[0].cpu().numpy()
            predicted_ids = dataset.ids[predicted]
            counts.add(sample.index, sample.labels.numpy(), predicted_ids)
            if save_to is not None:
                save_mask(save_to / dataset.prediction_name(sample.index), predicted_ids)
    return counts.result(accelerator)


def evaluate_files(
    folder: Path, dataset: SegDataset, *, accelerator: Accelerator | None = None, num_worst: int = 0
) -> Evaluation:
    """Scores the predictions in a folder, one for each image of the set, whoever made them.

    Arguments:
        accelerator: shares the images among its processes; all get the result.
    """
    counts = Counts(dataset, instances=True, num_worst=num_worst)
    files = dataset.find_predictions(folder)
    indices = range(len(files)) if accelerator is None else shard(accelerator, len(files))
    with progress() as bar:
        for index in bar.track(indices, description="scoring"):
            file, sample = files[index], dataset[index]
            predicted_ids = read_label(file)
            if predicted_ids.shape != tuple(sample.labels.shape):
                sizes = [f"{w}x{h}" for h, w in (predicted_ids.shape, sample.labels.shape)]
                raise InputError(f"{file}: is {sizes[0]}, its label {sizes[1]}; predictions have the labels' size")
            counts.add(index, sample.labels.numpy(), predicted_ids)
    return counts.result(accelerator)


def merge(parts: Iterable[InstanceCounts]) -> InstanceCounts:
    """The counts of all parts of a set."""
    total = InstanceCounts()
    for part in parts:
        total.merge(part)
    return total


def save_mask(path: Path, ids: np.ndarray) -> None:
    """Writes ids, uint8 [H, W], as the grey PNG that evaluations read."""
    replace_file(path, lambda part: Image.fromarray(ids).save(part, "PNG"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.eval_seg", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, help="best.safetensors of a run")
    what.add_argument("--predictions", type=Path, help="folder of label_id PNGs to score without a model")
    parser.add_argument(
        "--data", required=True, type=Path, help="folder with leftImg8bit/ and gtFine/, or of one's own data"
    )
    parser.add_argument("--classes", type=Path, help="classes.yaml of one's own data; without it, Cityscapes")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--labels", default="gtFine", help="Cityscapes' labels: gtFine or gtCoarse; default: gtFine")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights or predictions")
    parser.add_argument("--save-predictions", type=Path, metavar="DIR", help="write label_id PNGs there")
    parser.add_argument("--report", action="store_true", help="write report.html, which opens offline, into --out")
    parser.add_argument("--window", nargs=2, type=int, metavar=("H", "W"), help="slide a window over the image")
    parser.add_argument("--stride", nargs=2, type=int, metavar=("H", "W"), help="of the window; default: two thirds")
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0], metavar="S", help="mean over these scales")
    parser.add_argument("--flip", action="store_true", help="mean with the mirrored image's result")
    parser.add_argument("--workers", type=num_workers, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)

    window, stride = (None if sides is None else tuple(sides) for sides in (arguments.window, arguments.stride))
    inference = Inference(window, stride, tuple(arguments.scales), arguments.flip)
    if arguments.weights is None and inference != WHOLE_IMAGES:
        raise InputError("--window, --stride, --scales and --flip need --weights; files are scored as they are")
    dataset = open_data(arguments.data, arguments.split, classes=arguments.classes, annotation=arguments.labels)
    scored = dataset.has_labelled_pixels()
    if not scored and (arguments.save_predictions is None or arguments.weights is None):
        raise InputError(
            f"{arguments.data}: no pixel of split {arguments.split} counts, its labels are dummies, never scored;"
            " write --save-predictions DIR with --weights and upload that folder to the test server"
        )
    source = arguments.weights or arguments.predictions
    out = arguments.out or (source.parent if arguments.weights else source)
    accelerator = make_accelerator()
    if arguments.weights is not None:
        from tools.predict import load_model

        model, description = load_model(arguments.weights, task="segmentation")
        if description["classes"] != dataset.classes:
            raise InputError(
                f"{arguments.weights}: was trained on other classes ({', '.join(description['classes'][:3])}, …) than "
                f"the data has ({', '.join(dataset.classes[:3])}, …); --classes names those of one's own data"
            )
        if scored and accelerator.is_main_process:
            open_folder(out)
        evaluation = evaluate_model(
            model.to(accelerator.device).eval(),
            dataset,
            mean=description["mean"],
            std=description["std"],
            accelerator=accelerator,
            workers=arguments.workers,
            inference=inference,
            instances=True,
            num_worst=NUM_WORST * arguments.report,
            save_to=arguments.save_predictions,
        )
    else:
        if not arguments.predictions.is_dir():
            raise InputError(f"{arguments.predictions}: no such folder of predictions")
        worst = NUM_WORST * arguments.report
        evaluation = evaluate_files(arguments.predictions, dataset, accelerator=accelerator, num_worst=worst)
    if not accelerator.is_main_process:
        return 0
    if not scored:
        console.print(f"not scored: the labels are dummies. Predictions: {arguments.save_predictions}", soft_wrap=True)
        return 0

    print_scores(evaluation, dataset.classes)
    protocol = f"{inference.describe()}, native resolution, one confusion matrix; miou over the classes in the labels"
    metrics = {
        "task": "segmentation",
        "source": str(source),
        "protocol": protocol,
        "split": arguments.split,
        "images": len(dataset),
        **nested(evaluation.scores),
        "confusion": evaluation.confusion.tolist(),
    }
    if evaluation.official:
        metrics["cityscapes"] = nested(evaluation.official)
    replace_file(out / "metrics.json", lambda part: part.write_text(json.dumps(metrics, indent=1)))
    if arguments.report:
        facts = {
            "data": f"{arguments.data}, {arguments.split}, {len(dataset)} images",
            "source": str(source),
            "protocol": protocol,
        }
        page = write_report(facts=facts, dataset=dataset, **evaluation._asdict())
        replace_file(out / "report.html", lambda part: part.write_text(page, encoding="utf-8"))
        console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    console.print(
        f"mIoU {evaluation.scores['miou']:.4f} on {len(dataset)} images; {out / 'metrics.json'}", soft_wrap=True
    )
    return 0


def nested(scores: dict[str, float]) -> dict[str, float | dict[str, float | None] | None]:
    """Scores for JSON: `iou/NAME` becomes an entry of `iou`, NaN becomes null."""
    report = {}
    for name, value in finite(scores).items():
        kind, separator, class_name = name.partition("/")
        if separator:
            report.setdefault(kind, {})[class_name] = value
        else:
            report[name] = value
    return report


def print_scores(evaluation: Evaluation, names: list[str]) -> None:
    """The tables of classes and categories: IoU, iIoU where instances are known, share of the labelled pixels."""
    labelled, official = evaluation.confusion.sum(1), evaluation.official
    rows = []
    for name, pixels in zip(names, labelled, strict=True):
        iou = evaluation.scores[f"iou/{name}"]
        share = f"{100 * pixels / max(1, labelled.sum()):.2f} %"
        weighted = [percent(official.get(f"iiou/{name}", math.nan))] if "miiou" in official else []
        rows.append([escape(name), "absent" if math.isnan(iou) else percent(iou), *weighted, share])
    console.print(table("IoU per class", ["class", "IoU", *(["iIoU"] if "miiou" in official else []), "pixels"], rows))
    if official:
        kinds = ["category_iou", "category_iiou"] if "miiou" in official else ["category_iou"]
        rows = [[name, *(percent(official.get(f"{kind}/{name}", math.nan)) for kind in kinds)] for name in CATEGORIES]
        console.print(table("IoU per category", ["category", "IoU", "iIoU"][: 1 + len(kinds)], rows))
        means = [f"{name} {official[name]:.4f}" for name in MEANS if name in official]
        console.print(f"official evaluation: {', '.join(means)}", soft_wrap=True)


def percent(value: float) -> str:
    """A share in percent; nothing for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.2f}"


if __name__ == "__main__":
    run(main)
