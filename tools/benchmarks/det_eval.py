"""COCO's metrics of generated detections: `det.evaluate(fast=True)` beside pycocotools as its documentation shows."""

import contextlib
import io
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import det
from det.metrics import METRICS
from tools.io.console import console, progress, table

OURS, PEER = "taproot, fast", "pycocotools"


class Measured(NamedTuple):
    """What an evaluation found and took."""

    figures: list[float]  # COCO's twelve
    seconds: float  # elapsed
    processor_seconds: float
    peak_gb: float  # memory


def benchmark(*, images: int, detections: int, rounds: int) -> None:
    """Prints the comparison, from files to figures.

    Arguments:
        detections: per image.
    """
    evaluations = {OURS: evaluate_fast, PEER: evaluate_by_pycocotools}
    measured: dict[str, list[Measured]] = {name: [] for name in evaluations}
    with tempfile.TemporaryDirectory() as folder, progress() as bar:
        files = generate_detections(Path(folder), images=images, per_image=detections)
        task = bar.add_task("det-eval", total=len(evaluations) * rounds)
        for _ in range(rounds):
            for name, evaluate in evaluations.items():
                # A process of its own for each, so that the peak of memory is that evaluation's.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    measured[name].append(pool.apply(measure, (evaluate, files)))
                bar.advance(task)
    rows, processor_seconds = [], {}
    for name, runs in measured.items():
        seconds = statistics.median(run.seconds for run in runs)
        processor_seconds[name] = statistics.median(run.processor_seconds for run in runs)
        peak = max(run.peak_gb for run in runs)
        rows.append(
            [name, f"{seconds:.1f}", f"{processor_seconds[name]:.1f}", f"{peak:.2f}", f"{runs[0].figures[0]:.6f}"]
        )
    title = f"{images} images x {detections} detections"
    console.print(table(title, ["", "seconds", "of a processor", "peak GB", "AP"], rows))
    figures = [run.figures for runs in measured.values() for run in runs]
    difference = max(abs(one - other) for run in figures for one, other in zip(run, figures[0], strict=True))
    ratio = processor_seconds[PEER] / processor_seconds[OURS]
    console.print(f"{ratio:.2f}x in processor time; the twelve figures differ by at most {difference:.1e}")


def generate_detections(folder: Path, *, images: int, per_image: int, classes: int = 80) -> tuple[Path, Path]:
    """Writes annotations (7.25 boxes per image on average, 1 % crowds) and results json of that size."""
    random = np.random.default_rng(0)
    category_ids = np.arange(1, classes + 1) + np.arange(classes) // 8  # with gaps, as COCO's
    annotations, results = [], []
    for image_id in range(1, images + 1):
        count = min(random.poisson(7.25), per_image)
        corners, sides = random.uniform(0, 400, (count, 2)), random.lognormal(4, 1, (count, 2)).clip(2, 240)
        boxes = np.concatenate([corners, sides], axis=1)
        labels = random.integers(classes, size=count)
        for box, label in zip(boxes.tolist(), labels, strict=True):
            crowd = int(random.random() < 0.01)
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(category_ids[label])}
            annotations.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": crowd})
        near = boxes * random.normal(1, 0.1, boxes.shape)
        far = np.concatenate(
            [random.uniform(0, 400, (per_image - count, 2)), random.uniform(5, 200, (per_image - count, 2))], axis=1
        )
        found = np.concatenate([near, far]).round(2)
        found_labels = np.concatenate([labels, random.integers(classes, size=per_image - count)])
        scores = np.concatenate([random.beta(4, 2, count), random.beta(1, 6, per_image - count)]).round(4)
        for box, label, score in zip(found.tolist(), found_labels, scores.tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score})
    truth = {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 640, "width": 640} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": int(number), "name": f"class {number}"} for number in category_ids],
    }
    paths = folder / "truth.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


def evaluate_by_pycocotools(truth: Path, results: Path) -> list[float]:
    """The twelve figures, the way pycocotools' demo computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        coco_eval = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval.stats.tolist()


def evaluate_fast(truth: Path, results: Path) -> list[float]:
    """The twelve figures by this suite's fast evaluation."""
    metrics = det.evaluate(truth, det.read_results(results), fast=True)
    return [metrics[name] for name in METRICS]


def measure(evaluate: Callable[[Path, Path], list[float]], files: tuple[Path, Path]) -> Measured:
    """The figures of an evaluation, and what they took of this process."""
    start, processor_start = time.perf_counter(), time.process_time()
    figures = evaluate(*files)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Measured(figures, seconds, processor_seconds, peak)
