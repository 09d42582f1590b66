"""Times this suite beside what a user would do with torchvision, alternating in one run.

    python -m tools.benchmark video --weights seg.safetensors --weights det.safetensors --source street.mp4
    python -m tools.benchmark det-eval

`video`: every frame through the models, drawn and written to a file, by `tools.video`'s pipeline and by a plain loop
with torchvision's eager models of the same tasks. Peers have random weights unless --peer-weights gives a state dict.
`det-eval`: generated detections judged by pycocotools as its documentation shows and by `det.evaluate(…, fast=True)`,
from files to figures, each in a process of its own.
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torchvision.transforms.v2 import functional as F

import det
from backbone.weights import read_weights
from seg.cityscapes import COLORS
from tools.console import console, progress, run, table
from tools.predict import load
from tools.video import Counts, Drawing, process
from tools.video_io import open_sink, open_source

SCORE = 0.5


def time_pipeline(models: list, source: str, output: Path, num_frames: int) -> int:
    """Sends the frames through `tools.video`'s pipeline; returns how many were written."""
    stream, counts = open_source(source), Counts()
    sink = open_sink(output, stream.fps, True)
    process(stream, models, sink, counts=counts, drawing=Drawing(), stop=threading.Event(), max_frames=num_frames)
    sink.close()
    return counts.frames_written


def make_peer(task: str, num_classes: int, weights: Path | None) -> nn.Module:
    """torchvision's model of a task, built and used as its documentation shows."""
    if task == "segmentation":
        model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes
        )
    else:
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes + 1
        )
        if weights is None:  # a trained detector finds little in most frames: random ones must not pay for thousands
            for level in model.head.classification_head.module_list:
                with torch.no_grad():
                    level[1].bias.view(-1, num_classes + 1)[:, 0] = 10.0
    if weights is not None:
        model.load_state_dict(read_weights(weights))
    return model.eval()


def time_plain_loop(peers: list[tuple[str, nn.Module, list[str]]], source: str, output: Path, num_frames: int) -> int:
    """Reads, predicts, draws and writes frame after frame with eager models; returns how many were written."""
    capture = cv2.VideoCapture(source)
    size_wh = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"mp4v"), 24, size_wh)
    palette = np.array(COLORS, np.uint8)[:, ::-1]
    written = 0
    while written < num_frames:
        read, frame = capture.read()
        if not read:
            break
        rgb = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1) / 255
        for task, model, classes in peers:
            with torch.no_grad():
                if task == "segmentation":
                    image = F.normalize(rgb, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
                    labels = model(image[None])["out"].argmax(1)[0].numpy()
                    frame = cv2.addWeighted(frame, 0.5, palette[labels], 0.5, 0)
                else:
                    found = model([rgb])[0]
                    for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
                        if score >= SCORE:
                            left, top, right, bottom = (round(value) for value in box.tolist())
                            cv2.rectangle(frame, (left, top), (right, bottom), (0, 255, 0), 2)
                            text = f"{classes[label - 1]} {score:.2f}"
                            cv2.putText(frame, text, (left, top), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 0))
        writer.write(frame)
        written += 1
    capture.release()
    writer.release()
    return written


def video(arguments: argparse.Namespace) -> None:
    """The comparison on a video."""
    models = [load(path) for path in arguments.weights]
    given = arguments.peer_weights or []
    peers = [
        (model.task, make_peer(model.task, len(model.classes), weights), model.classes)
        for model, weights in itertools.zip_longest(models, given[: len(models)])
    ]
    speeds: dict[str, list[float]] = {"taproot": [], "torchvision, plain loop": []}
    with tempfile.TemporaryDirectory() as folder, progress() as bar:
        task = bar.add_task("video", total=2 * arguments.rounds)
        for _ in range(arguments.rounds):
            contenders: list[tuple[str, Callable, list]] = [
                ("taproot", time_pipeline, models),
                ("torchvision, plain loop", time_plain_loop, peers),
            ]
            for name, contender, loaded in contenders:
                start = time.perf_counter()
                written = contender(loaded, arguments.source, Path(folder) / f"{len(name)}.mp4", arguments.frames)
                speeds[name].append(written / (time.perf_counter() - start))
                bar.advance(task)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    rows = [[name, f"{medians[name]:.2f}", f"{min(v):.2f} to {max(v):.2f}"] for name, v in speeds.items()]
    console.print(table(f"frames per second, {arguments.source}", ["", "median", "range"], rows))
    ratio = medians["taproot"] / medians["torchvision, plain loop"]
    console.print(
        f"{ratio:.2f}x; {torch.get_num_threads()} threads, {arguments.frames} frames, {arguments.rounds} rounds"
    )


def generate_detections(folder: Path, *, pictures: int, per_picture: int, classes: int = 80) -> tuple[Path, Path]:
    """Writes annotations (7.25 boxes a picture on average, 1 % crowds) and results json of that size."""
    random = np.random.default_rng(0)
    category_ids = np.arange(1, classes + 1) + np.arange(classes) // 8  # with gaps, as COCO's
    annotations, results = [], []
    for image_id in range(1, pictures + 1):
        count = min(random.poisson(7.25), per_picture)
        corners, sides = random.uniform(0, 400, (count, 2)), random.lognormal(4, 1, (count, 2)).clip(2, 240)
        boxes = np.concatenate([corners, sides], axis=1)
        labels = random.integers(classes, size=count)
        for box, label in zip(boxes.tolist(), labels, strict=True):
            crowd = int(random.random() < 0.01)
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(category_ids[label])}
            annotations.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": crowd})
        near = boxes * random.normal(1, 0.1, boxes.shape)
        far = np.concatenate(
            [random.uniform(0, 400, (per_picture - count, 2)), random.uniform(5, 200, (per_picture - count, 2))], axis=1
        )
        found = np.concatenate([near, far]).round(2)
        found_labels = np.concatenate([labels, random.integers(classes, size=per_picture - count)])
        scores = np.concatenate([random.beta(4, 2, count), random.beta(1, 6, per_picture - count)]).round(4)
        for box, label, score in zip(found.tolist(), found_labels, scores.tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score})
    truth = {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 640, "width": 640} for n in range(1, pictures + 1)],
        "annotations": annotations,
        "categories": [{"id": int(number), "name": f"class {number}"} for number in category_ids],
    }
    paths = folder / "truth.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


def judge_by_pycocotools(truth: Path, results: Path) -> list[float]:
    """The twelve figures, the way pycocotools' demo computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        judge = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()


def judge_fast(truth: Path, results: Path) -> list[float]:
    """The twelve figures by this suite's quick evaluation."""
    figures = det.evaluate(truth, det.read_results(results), fast=True)
    return [figures[name] for name in det.metrics.FIGURES]


def measure(judge: Callable[[Path, Path], list[float]], files: tuple[Path, Path]) -> tuple[list[float], float, float]:
    """Figures, seconds and peak memory in GB of a judge."""
    start = time.perf_counter()
    figures = judge(*files)
    return figures, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def det_eval(arguments: argparse.Namespace) -> None:
    """The comparison of detection evaluations."""
    judges = {"taproot, fast": judge_fast, "pycocotools": judge_by_pycocotools}
    measured: dict[str, list[tuple]] = {name: [] for name in judges}
    with tempfile.TemporaryDirectory() as folder, progress() as bar:
        files = generate_detections(Path(folder), pictures=arguments.pictures, per_picture=arguments.detections)
        task = bar.add_task("det-eval", total=len(judges) * arguments.rounds)
        for _ in range(arguments.rounds):
            for name, judge in judges.items():
                # A process of its own for each, so that the peak of memory is that judge's.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    measured[name].append(pool.apply(measure, (judge, files)))
                bar.advance(task)
    seconds = {name: statistics.median(run[1] for run in runs) for name, runs in measured.items()}
    rows = [
        [name, f"{seconds[name]:.1f}", f"{max(run[2] for run in runs):.2f}", f"{runs[0][0][0]:.6f}"]
        for name, runs in measured.items()
    ]
    title = f"{arguments.pictures} pictures x {arguments.detections} detections"
    console.print(table(title, ["", "seconds", "peak GB", "AP"], rows))
    figures = [run[0] for runs in measured.values() for run in runs]
    difference = max(abs(one - other) for run in figures for one, other in zip(run, figures[0], strict=True))
    ratio = seconds["pycocotools"] / seconds["taproot, fast"]
    console.print(f"{ratio:.2f}x; the twelve figures differ by at most {difference:.1e}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("video", help="frames per second from file to file")
    command.add_argument("--weights", type=Path, action="append", required=True, help="best.safetensors; repeatable")
    command.add_argument(
        "--peer-weights", type=Path, action="append", help="torchvision state dict, one for each --weights in order"
    )
    command.add_argument("--source", required=True, help="video file")
    command.add_argument("--frames", type=int, default=100, help="per round; default: 100")
    command.add_argument("--rounds", type=int, default=3, help="alternating; default: 3")
    command.set_defaults(run=video)
    command = commands.add_parser("det-eval", help="seconds and memory of COCO's figures")
    command.add_argument("--pictures", type=int, default=5000, help="default: 5000")
    command.add_argument("--detections", type=int, default=100, help="per picture; default: 100")
    command.add_argument("--rounds", type=int, default=1, help="alternating; default: 1")
    command.set_defaults(run=det_eval)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    run(main)
