"""Frames per second from video file to video file, beside a plain loop with torchvision's eager models."""

import itertools
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from seg.data.cityscapes import COLORS
from tools.benchmarks.contenders import make_peer
from tools.benchmarks.timing import alternate, medians
from tools.io.console import console, table
from tools.predict import load
from tools.streams.overlay import Drawing
from tools.streams.pipeline import Counts, Pipeline, Predictor
from tools.streams.sinks import open_sink
from tools.streams.sources import open_source

SCORE = 0.5  # detections from this one on are drawn
OURS, PLAIN = "taproot", "torchvision, plain loop"


def benchmark(*, weights: list[Path], peer_weights: list[Path] | None, source: str, frames: int, rounds: int) -> None:
    """Prints the comparison.

    Arguments:
        peer_weights: state dicts of torchvision's models, in the order of `weights`; missing ones are random.
        frames: of the source, in each round.
    """
    models = [load(path, engine="torch") for path in weights]
    peers = [
        (model.task, make_peer(model.task, len(model.classes), state_dict), model.classes)
        for model, state_dict in itertools.zip_longest(models, (peer_weights or [])[: len(models)])
    ]
    num_written: dict[str, int] = {}

    def counted(name: str, run: Callable[[], int]) -> Callable[[], None]:
        def contender() -> None:
            num_written[name] = run()

        return contender

    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            OURS: partial(run_pipeline, models, source, Path(folder) / "ours.mp4", frames),
            PLAIN: partial(run_plain_loop, peers, source, Path(folder) / "plain.mp4", frames),
        }
        contenders = {name: counted(name, run) for name, run in contenders.items()}
        seconds = alternate(contenders, rounds, warm_up=False)
    speeds = {name: [num_written[name] / value for value in values] for name, values in seconds.items()}
    median = medians(speeds)
    rows = [[name, f"{median[name]:.2f}", f"{min(v):.2f} to {max(v):.2f}"] for name, v in speeds.items()]
    console.print(table("frames per second", ["", "median", "range"], rows))
    ratio = median[OURS] / median[PLAIN]
    threads = torch.get_num_threads()
    console.print(f"{ratio:.2f}x on {source}; {threads} threads, {frames} frames, {rounds} rounds", markup=False)


def run_pipeline(models: Sequence[Predictor], source: str, output: Path, max_frames: int) -> int:
    """Sends the frames through `tools.video`'s pipeline; returns how many were written."""
    stream, counts = open_source(source), Counts()
    stop = threading.Event()
    sink = open_sink(output, stream.fps, overwrite=True, stop=stop)
    Pipeline(stream, models, sink, counts=counts, drawing=Drawing(), stop=stop, max_frames=max_frames).run()
    sink.close()
    return counts.frames_written


def run_plain_loop(peers: list[tuple[str, nn.Module, list[str]]], source: str, output: Path, max_frames: int) -> int:
    """Reads, predicts, draws and writes frame after frame with eager models; returns how many were written."""
    capture = cv2.VideoCapture(source)
    size_wh = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"mp4v"), 24, size_wh)
    palette = np.array(COLORS, np.uint8)[:, ::-1]
    written = 0
    while written < max_frames:
        was_read, frame = capture.read()
        if not was_read:
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
