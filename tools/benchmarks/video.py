"""Frames per second from video file to video file: the pipeline, its stages in turn, and a plain loop."""

import itertools
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from backbone.inference import input_size
from seg.data.cityscapes import COLORS
from tools.benchmarks.contenders import make_peer
from tools.benchmarks.timing import alternate
from tools.io.console import console, table
from tools.io.files import replace_file
from tools.options import network_sizes
from tools.predict import load
from tools.predicting.pairs import pairs, parts
from tools.streams.overlay import Drawing, draw
from tools.streams.pipeline import Counts, Pipeline, Predictor, resized
from tools.streams.run_video import load_predictors, set_thread_counts, share_cores, thread_counts
from tools.streams.settings import Predicting
from tools.streams.sinks import open_sink
from tools.streams.sources import open_source
from tools.streams.summary import num_cores

SCORE = 0.5  # detections from this one on are drawn
PLAIN = "torchvision, plain loop"


class Measured(NamedTuple):
    """What one run of a contender took."""

    frames: int
    seconds: float  # elapsed
    processor_seconds: float  # of all threads
    slowest_stage: float  # seconds of reading, or of drawing and writing, which are one thread each; 0: not overlapped


def benchmark(
    *,
    weights: list[Path],
    engine: list[str],
    size: list[list[int]] | None,
    resize: tuple[int, int | None] | None,
    peer_weights: list[Path] | None,
    source: str,
    frames: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Prints the comparison, and writes it as JSON to `out`.

    Arguments:
        engine: names of engines; each runs overlapped and in turn.
        size: of the networks' input, as `tools.options.network_sizes` takes it; the plain loop's segmenters get it too.
        resize: (width, height or None) of the frames; the source is resized to a clip first, outside the times.
        peer_weights: state dicts of torchvision's models, segmenters first; missing ones are random.
        frames: of the source, in each round.
    """
    sizes = network_sizes(size, len(weights))
    models = [load(path, engine="torch", device="cpu") for path in weights]
    heads = parts(models)
    size_of = {id(head): size for model, size in zip(models, sizes, strict=False) for head in parts([model])}
    peer_sizes = [size_of[id(head)] for head in heads] if sizes else ()
    peers = [
        (head.task, make_peer(head.task, len(head.classes), state_dict), head.classes)
        for head, state_dict in itertools.zip_longest(heads, (peer_weights or [])[: len(heads)])
    ]
    found: dict[str, list[Measured]] = {}

    def noted(name: str, run: Callable[[], tuple[int, float]]) -> Callable[[], None]:
        def contender() -> None:
            start, processor_start = time.perf_counter(), time.process_time()
            written, slowest = run()
            seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
            found.setdefault(name, []).append(Measured(written, seconds, processor_seconds, slowest))

        return contender

    with tempfile.TemporaryDirectory() as folder:
        if resize is not None:
            source = write_resized(source, Path(folder) / "clip.mp4", resize, frames)
        contenders: dict[str, Callable[[], tuple[int, float]]] = {}
        for name in engine:
            asked, output = Predicting(weights, name, "cpu", sizes), Path(folder) / "ours.mp4"
            in_turn = load_predictors(asked, score_threshold=SCORE)
            before = thread_counts()
            num_lanes = share_cores(open_source(source), asked)
            shared = thread_counts()
            lanes = [load_predictors(asked, score_threshold=SCORE) for _ in range(num_lanes)]
            # The runtimes prepare with the first frame, and follow torch's threads as they do.
            warm_up(lanes, source)
            set_thread_counts(*before)
            warm_up([in_turn], source)
            contenders[name] = partial(run_pipeline, lanes, shared, source, output, frames)
            contenders[f"{name}, in turn"] = partial(run_in_turn, in_turn, source, output, frames)
        contenders[PLAIN] = partial(run_plain_loop, peers, source, Path(folder) / "plain.mp4", frames, peer_sizes)
        alternate({name: noted(name, run) for name, run in contenders.items()}, rounds, warm_up=False)
    report = {name: summarise(runs) for name, runs in found.items()}
    peer = report[PLAIN]["frames_per_second"]
    rows = [
        [
            name,
            f"{row['frames_per_second']:.2f}",
            f"{row['frames_per_second'] / peer:.2f}x",
            f"{row['processor_ms']:.0f}",
            f"{row['bound_ms']:.1f}",
            f"{100 * row['share_of_bound']:.0f} %",
        ]
        for name, row in report.items()
    ]
    columns = ["", "frames/s", "speed", "processor ms", "bound ms", "of bound"]
    console.print(table(f"{source}, {frames} frames, medians of {rounds} rounds", columns, rows))
    console.print(
        "processor: time of all threads for a frame. Bound: that over the cores, or the time of reading or of drawing "
        "and writing if that is longer.",
        soft_wrap=True,
    )
    if out is not None:
        replace_file(out, lambda part: part.write_text(json.dumps(report, indent=1)))


def summarise(runs: Sequence[Measured]) -> dict[str, float]:
    """Medians over rounds: frames per second, processor time and bound of a frame, and the share of it reached."""
    seconds, processor, slowest = (
        statistics.median(getattr(run, name) / run.frames for run in runs)
        for name in ("seconds", "processor_seconds", "slowest_stage")
    )
    bound = max(processor / num_cores(), slowest)
    return {
        "frames_per_second": 1 / seconds,
        "processor_ms": 1000 * processor,
        "bound_ms": 1000 * bound,
        "share_of_bound": bound / seconds,
    }


def write_resized(source: str, output: Path, size_wh: tuple[int, int | None], max_frames: int) -> str:
    """The first frames of a video at another size, as a file; its name."""
    stream = open_source(source)
    sink = open_sink(output, stream.fps, stop=threading.Event())
    for _ in range(max_frames):
        if (frame := stream.read()) is None:
            break
        sink.write(resized(frame.image, size_wh), frame.seconds)
    stream.close()
    sink.close()
    return str(output)


def warm_up(lanes: Sequence[Sequence[Predictor]], source: str) -> None:
    """Sends the first frame through every predictor."""
    frame = open_source(source).read()
    assert frame is not None  # the plain loop reads it too
    for predictor in itertools.chain.from_iterable(lanes):
        predictor(frame.image)


def run_pipeline(
    lanes: Sequence[Sequence[Predictor]], threads: tuple[int, int], source: str, output: Path, max_frames: int
) -> tuple[int, float]:
    """Sends the frames through `tools.video`'s pipeline; the number written, seconds of the longer single thread."""
    before = thread_counts()
    set_thread_counts(*threads)
    stream, counts = open_source(source), Counts()
    stop = threading.Event()
    sink = open_sink(output, stream.fps, overwrite=True, stop=stop)
    drawing = Drawing()
    Pipeline(
        stream, lanes[0], sink, more_lanes=lanes[1:], counts=counts, drawing=drawing, stop=stop, max_frames=max_frames
    ).run()
    sink.close()
    set_thread_counts(*before)
    stages = counts.stage_seconds
    return counts.frames_written, max(stages.read, stages.draw + stages.write)


def run_in_turn(models: Sequence[Predictor], source: str, output: Path, max_frames: int) -> tuple[int, float]:
    """The same without overlap: each frame is read, predicted, drawn and written before the next."""
    stream = open_source(source)
    sink = open_sink(output, stream.fps, overwrite=True, stop=threading.Event())
    written = 0
    while written < max_frames and (frame := stream.read()) is not None:
        results = pairs(models, [model(frame.image) for model in models])
        sink.write(draw(frame.image, results, Drawing(), 0.0), frame.seconds)
        written += 1
    stream.close()
    sink.close()
    return written, 0.0


def run_plain_loop(
    peers: list[tuple[str, nn.Module, list[str]]],
    source: str,
    output: Path,
    max_frames: int,
    sizes: Sequence[tuple[int, int] | int],
) -> tuple[int, float]:
    """Reads, predicts, draws and writes frame after frame with eager models; the number written, and 0."""
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
        for (task, model, classes), size in itertools.zip_longest(peers, sizes):
            with torch.no_grad():
                if task == "segmentation":
                    image = F.normalize(rgb, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
                    height, width = input_size(size, frame.shape[:2], frame.shape[:2])
                    logits = model(F.resize(image[None], [height, width], antialias=True))["out"]
                    labels = F.resize(logits, list(frame.shape[:2])).argmax(1)[0].numpy()
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
    return written, 0.0
