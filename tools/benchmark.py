"""Times this suite beside what a user would do with torchvision, alternating in one run.

    python -m tools.benchmark video --weights seg.safetensors --weights det.safetensors --source street.mp4
    python -m tools.benchmark seg-loader
    python -m tools.benchmark confusion
    python -m tools.benchmark label-map --weights runs/large/best.safetensors --data /data/cityscapes

`video`: every frame through the models, drawn and written to a file, by `tools.video`'s pipeline and by a plain loop
with torchvision's eager models of the same tasks. Peers have random weights unless --peer-weights gives a state dict.
`seg-loader`, `confusion`, `label-map`: a training sample from 1024x2048 pictures, a picture's confusion matrix, and its
labels from logits, beside the ways these are usually done.
"""

import argparse
import itertools
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
from torch import nn
from torchvision.transforms.v2 import functional as F

from backbone.weights import read_weights
from seg.cityscapes import COLORS
from tools.benchmark_seg import add_commands
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
    add_commands(commands)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    run(main)
