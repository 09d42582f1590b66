"""Scores a detector, or detections from anywhere, on COCO or on data in its layout.

    python -m tools.eval_det --weights runs/large/best.safetensors --data /data/coco
    python -m tools.eval_det --weights best.safetensors --data /data/coco --save-predictions detections.json
    python -m tools.eval_det --results detections.json --data /data/coco --split val2017 --report
    python -m tools.eval_det --weights best.safetensors --data /data/coco --split test-dev2017 --name taproot

COCO's twelve figures by pycocotools, on every image of the split, boxes in the images' own pixels. For splits whose
boxes are secret (image_info_SPLIT.json) detections_SPLIT_NAME_results.json is written for COCO's server, not scored.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Subset

import det
from backbone.errors import InputError
from backbone.inference import normalise
from tools.io.console import console, num_workers, progress, run, table
from tools.io.files import open_folder, replace_file
from tools.run.processes import gather_parts, make_accelerator, shard, single_thread
from tools.scoring.report_det import write_report

SCORE_OF_LOSS = {"softmax": "softmax", "focal": "sigmoid", "quality_focal": "sigmoid"}
"""What turns logits into scores, by the loss they were trained with."""

BATCH = 16


@torch.inference_mode()
def evaluate_model(
    model: nn.Module,
    dataset: det.CocoDetection,
    description: dict[str, Any],
    *,
    accelerator: Accelerator,
    workers: int = 1,
) -> list[dict]:
    """COCO results of a model in evaluation mode, in the order of the images.

    Over several processes each image is looked at once, and all processes get all results.
    """
    device = accelerator.device
    indices = shard(accelerator, len(dataset))
    loader = DataLoader(
        Subset(dataset, indices),
        batch_size=BATCH,
        collate_fn=det.collate,
        num_workers=workers,
        worker_init_fn=single_thread,
        timeout=300 * (workers > 0),
    )
    nms_iou = description.get("nms_iou", det.NMS_IOU)  # only converted files name it
    finish = det.PostProcess(description["score"], model.background, nms_iou=nms_iou, resize=model.resize)
    results = []
    with progress() as bar:
        task = bar.add_task("evaluating", total=len(indices))
        for batch in loader:
            images = normalise(batch.images.to(device), description["mean"], description["std"], channels_last=True)
            detections = finish(model(images), model.anchors, model.image_size_hw, batch.original_sizes_hw.tolist())
            results += det.to_results(detections, batch.image_ids.tolist(), dataset.category_ids)
            bar.advance(task, len(detections))
    order = {image_id: position for position, image_id in enumerate(dataset.image_ids)}
    everyones = [row for part in gather_parts(accelerator, results) for row in part]
    return sorted(everyones, key=lambda row: order[row["image_id"]])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.eval_det", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, help="best.safetensors of a run")
    what.add_argument("--results", type=Path, help="COCO results json to score without a model")
    parser.add_argument("--data", required=True, type=Path, help="folder with annotations/ and the images")
    parser.add_argument("--split", default="val2017", help="default: val2017")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights or results")
    parser.add_argument("--save-predictions", type=Path, metavar="FILE", help="write COCO results json there")
    parser.add_argument("--report", action="store_true", help="write report.html, which opens offline, into --out")
    parser.add_argument("--fast", action="store_true", help="let faster-coco-eval count; figures are equal to 1e-12")
    parser.add_argument("--name", default="taproot", help="the detector's in a file for the server; default: taproot")
    parser.add_argument("--workers", type=num_workers, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)
    if arguments.report and arguments.fast:
        raise InputError("--report shows pycocotools' matches, which --fast does without; leave one of them away")

    source = arguments.weights or arguments.results
    out = arguments.out or source.parent
    annotations = det.annotation_file(arguments.data, arguments.split)
    scored = det.is_scored(annotations)
    if not scored and arguments.weights is None:
        raise InputError(f"{annotations}: has no boxes to score against; upload {arguments.results} to COCO's server")
    if arguments.weights is not None:
        from tools.predict import load_model

        accelerator = make_accelerator()
        model, description = load_model(arguments.weights, task="detection")
        dataset = det.CocoDetection(
            arguments.data,
            arguments.split,
            transform=det.eval_transform(model.image_size_hw, model.resize),
            categories=description["classes"],
        )
        ground_truth = det.load_ground_truth(annotations)
        det.self_check(ground_truth, dataset)
        if scored and accelerator.is_main_process:
            open_folder(out)
        results = evaluate_model(
            model.to(accelerator.device).eval(),
            dataset,
            description,
            accelerator=accelerator,
            workers=arguments.workers,
        )
        if not accelerator.is_main_process:
            return 0
        written = arguments.save_predictions
        if written is None and not scored:
            written = out / f"detections_{arguments.split}_{arguments.name}_results.json"
        if written is not None:
            replace_file(written, lambda part: part.write_text(json.dumps(results)))
        if not scored:
            console.print(f"not scored: {annotations} has no boxes. Detections: {written}", soft_wrap=True)
            return 0
    else:
        results = det.read_results(arguments.results)
        ground_truth = det.load_ground_truth(annotations)

    judged = det.judge(ground_truth, results, fast=arguments.fast)
    figures = det.figures_of(judged)
    per_class = {name.removeprefix("AP/"): value for name, value in figures.items() if name.startswith("AP/")}
    figures = {name: value for name, value in figures.items() if not name.startswith("AP/")}
    print_figures(figures, per_class)
    protocol = f"COCO boxes by {'faster-coco-eval' if arguments.fast else 'pycocotools'}, all images of the split"
    metrics = {
        "task": "detection",
        "source": str(source),
        "protocol": protocol,
        "split": arguments.split,
        "images": len(ground_truth.imgs),
        **figures,
        "per_class": per_class,
    }
    replace_file(out / "metrics.json", lambda part: part.write_text(json.dumps(metrics, indent=1)))
    if arguments.report:
        facts = {
            "data": f"{arguments.data}, {arguments.split}, {len(ground_truth.imgs)} images",
            "source": str(source),
            "protocol": protocol,
        }
        folder = det.image_folder(arguments.data, arguments.split)
        page = write_report(facts=facts, judged=judged, folder=folder)
        replace_file(out / "report.html", lambda part: part.write_text(page, encoding="utf-8"))
        console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    summary = f"AP {figures['AP']:.4f}, AP50 {figures['AP50']:.4f} on {len(ground_truth.imgs)} images"
    console.print(f"{summary}; {out / 'metrics.json'}", soft_wrap=True)
    return 0


def print_figures(figures: dict[str, float], per_class: dict[str, float]) -> None:
    """COCO's figures and the table of classes; -1 means that there was nothing to find."""
    rows = [[name, "nothing to find" if value < 0 else f"{value:.4f}"] for name, value in figures.items()]
    console.print(table("COCO figures", ["figure", "value"], rows))
    rows = [[name, "absent" if value < 0 else f"{100 * value:.2f}"] for name, value in per_class.items()]
    console.print(table("AP per class", ["class", "AP"], rows))


if __name__ == "__main__":
    run(main)
