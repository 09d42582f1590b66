"""Times this suite beside what a user would do with torchvision, alternating in one run.

    python -m tools.benchmark video --weights seg.safetensors --weights det.safetensors --source street.mp4
    python -m tools.benchmark seg-step --size 512 512 --batch 4 --compile

`video`: every frame through the models, drawn and written to a file, by `tools.video`'s pipeline and by a plain loop
with torchvision's eager models of the same tasks. Peers have random weights unless --peer-weights gives a state dict.

`seg-step`: a training step of LR-ASPP Large in torchvision's variant (forward, cross-entropy at full size, backward,
SGD) as `tools.train_seg` does it, and of torchvision's model as its reference script does it; each in its own process.
"""

import argparse
import itertools
import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2 import functional as F

import seg.loss
from backbone.weights import read_weights
from seg.cityscapes import COLORS
from tools.config import Optim
from tools.console import console, progress, run, table
from tools.loop import make_optimizer
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


def make_seg_step(contender: str, size_hw: tuple[int, int], batch: int) -> Callable[[], None]:
    """A training step of "torchvision", "taproot" or "taproot compiled" on random pictures of 19 classes."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size_hw)
    labels = torch.randint(0, 19, (batch, *size_hw), dtype=torch.uint8)
    if contender == "torchvision":
        model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=19
        ).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-6)

        def loss() -> torch.Tensor:
            return cross_entropy(model(images)["out"], labels.long(), ignore_index=255)
    else:
        plain = seg.create(variant="torchvision").train().to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer = make_optimizer(plain, Optim(name="sgd", lr=0.01, weight_decay=1e-6))
        stepped = torch.compile(plain) if contender == "taproot compiled" else plain

        def loss() -> torch.Tensor:
            return seg.loss.cross_entropy(stepped(images), labels)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def serve_seg_steps(pipe: Connection, contender: str, size_hw: tuple[int, int], batch: int, threads: int) -> None:
    """In a process of its own: does a step for every message and answers with its seconds, at the end with its memory.

    The first answer is the time to the end of the first step, compilation included; one more step warms up.
    """
    torch.set_num_threads(threads)
    start = time.perf_counter()
    step = make_seg_step(contender, size_hw, batch)
    step()
    first = time.perf_counter() - start
    step()
    pipe.send(first)
    while pipe.recv():
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def seg_step(arguments: argparse.Namespace) -> None:
    """The comparison of training steps."""
    context = multiprocessing.get_context("spawn")
    contenders = ["torchvision", "taproot"] + ["taproot compiled"] * arguments.compile
    pipes, first = {}, {}
    for contender in contenders:  # one after the other: nothing runs beside a first step
        pipes[contender], theirs = context.Pipe()
        settings = (theirs, contender, tuple(arguments.size), arguments.batch, arguments.threads)
        context.Process(target=serve_seg_steps, args=settings, daemon=True).start()
        first[contender] = pipes[contender].recv()
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    with progress() as bar:
        for _ in bar.track(range(arguments.rounds), description="rounds"):
            for contender in contenders:
                pipes[contender].send(True)
                seconds[contender].append(pipes[contender].recv())
    rows, medians = [], {contender: statistics.median(values) for contender, values in seconds.items()}
    for contender, values in seconds.items():
        pipes[contender].send(False)
        ratio = medians["torchvision"] / medians[contender]
        memory = f"{pipes[contender].recv():.0f} MiB"
        times = [f"{medians[contender]:.2f} s", f"{min(values):.2f} to {max(values):.2f}", f"{ratio:.2f}x"]
        rows.append([contender, *times, memory, f"{first[contender]:.0f} s"])
    height, width = arguments.size
    title = f"training step, {arguments.batch} pictures of {height}x{width}, {arguments.threads} threads"
    console.print(table(title, ["", "median", "range", "speed", "peak memory", "first step"], rows))


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
    command = commands.add_parser("seg-step", help="seconds of a training step of LR-ASPP, and its memory")
    command.add_argument("--size", type=int, nargs=2, default=(512, 512), help="height and width; default: 512 512")
    command.add_argument("--batch", type=int, default=4, help="pictures; default: 4")
    command.add_argument("--rounds", type=int, default=7, help="alternating; default: 7")
    command.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: as torch chooses")
    command.add_argument("--compile", action="store_true", help="also with run.compile=true; takes minutes")
    command.set_defaults(run=seg_step)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    run(main)
