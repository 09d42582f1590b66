"""From picture to result: every engine beside torchvision's model of the task and the bound that arithmetic sets."""

import itertools
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

import det
from backbone.data.images import IMAGE_SUFFIXES, image_files, image_size, read_image
from backbone.errors import InputError
from tools.benchmarks.contenders import PEER, Contender, Engine, Stages, Subject, make_other, peers
from tools.benchmarks.latency_chart import draw_latencies
from tools.benchmarks.timing import alternate
from tools.demo_world.writer import make_scene
from tools.engines.choice import MODULES, is_installed
from tools.engines.exported import is_exported, open_file
from tools.io.console import console, table
from tools.io.files import open_folder, replace_file
from tools.joint.network import TASKS, create
from tools.joint.weights import CREATE, single_models
from tools.network_summary.counts import count_macs
from tools.options import JOINT
from tools.predicting.models import load_model

SCENE_HW = (720, 1280)
MAX_PICTURES = 16
"""Of a folder; they are read again and again."""
MATRIX, PRODUCTS = 2048, 7
"""Side of the matrices whose product shows the machine's rate, and how often they are multiplied."""
VERSIONS = ("torch", "torchvision", "onnxruntime", "openvino", "ultralytics")


@dataclass(frozen=True)
class Candidate:
    """What is timed: a file of ours in an engine, or another's model."""

    name: str
    weights: str | None  # None: `name` is one of `contenders.peers`
    engine: str

    def open(self, subject: Subject) -> Contender:
        """Loads it."""
        if self.weights is None:
            return make_other(self.name, subject)
        return Engine(self.weights, self.engine, subject.size_hw)

    def num_bytes(self) -> int | None:
        """The size of its file, weights beside it included; None of another's model."""
        if self.weights is None or not Path(self.weights).is_file():
            return None
        path = Path(self.weights)
        beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
        return sum(file.stat().st_size for file in (path, *beside))


class Measured(NamedTuple):
    """What one process found with a number of threads, by candidate."""

    gflops: float  # of float32 matrix products: 10^9 operations per second
    frames: dict[str, list[dict[str, float]]]  # seconds of each counted frame by stage
    rates: dict[str, dict[int, float]]  # frames per second by batch


@dataclass(frozen=True)
class Run:
    """What the measuring processes need to know."""

    candidates: tuple[Candidate, ...]
    subject: Subject
    pictures: tuple[Path, ...]
    picture_hw: tuple[int, int]  # of the first one
    batches: tuple[int, ...]
    rounds: int


def benchmark(
    *,
    weights: list[str],
    engine: list[str] | None,
    peer_weights: Path | None,
    size: tuple[int, int] | None,
    source: Path | None,
    batch: list[int],
    threads: list[int] | None,
    rounds: int,
    out: Path,
) -> None:
    """Prints the comparison and writes benchmark.json and latency.png into `out`.

    Arguments:
        weights: files of one task; a weights file is run in every engine, an exported one in its own.
        engine: names of engines; None: torch and the runtimes that are installed.
        peer_weights: a state dict of torchvision's model; None: random.
        size: (height, width) of the network's input.
        source: a picture or a folder of pictures; None: a painted street.
        batch: numbers of frames in a call, for the throughput.
        threads: of each measuring process; None: as many as torch chooses.
    """
    open_folder(out)
    with tempfile.TemporaryDirectory() as folder:
        pictures = find_pictures(source, Path(folder))
        run = plan(weights, engine, peer_weights, size, pictures, batch, rounds)
        measured, memory = {}, {}
        for count in threads or [torch.get_num_threads()]:
            with one_process(count) as call:
                measured[count] = call(measure, run, count)
        for candidate in run.candidates:
            with one_process(max(measured)) as call:
                memory[candidate.name] = call(peak_memory, candidate, run)
    macs = multiply_adds(describe(weights[0]), run.subject.size_hw)
    report = summarise(run, measured, memory, macs)
    print_report(report)
    replace_file(out / "benchmark.json", lambda part: part.write_text(json.dumps(report, indent=1)))
    draw_latencies(report, out / "latency.png")
    console.print(f"wrote {out / 'benchmark.json'} and {out / 'latency.png'}", soft_wrap=True)


def find_pictures(source: Path | None, folder: Path) -> tuple[Path, ...]:
    """The pictures to predict, at most MAX_PICTURES; without a source, one of a painted street, put into `folder`.

    Raises:
        InputError: there is none.
    """
    if source is None:
        painted = folder / "street.jpg"
        cv2.imwrite(str(painted), make_scene("val", 0, SCENE_HW, seed=0).view.image)
        return (painted,)
    if source.is_dir():
        found = image_files(source)[:MAX_PICTURES]
        if not found:
            raise InputError(f"{source}: holds no picture ({', '.join(IMAGE_SUFFIXES)}); give another folder")
        return tuple(found)
    return (source,)


def plan(
    weights: Sequence[str],
    engines: Sequence[str] | None,
    peer_weights: Path | None,
    size_hw: tuple[int, int] | None,
    pictures: tuple[Path, ...],
    batches: Sequence[int],
    rounds: int,
) -> Run:
    """What there is to measure.

    Raises:
        InputError: the weights are of several tasks, or the pictures of several sizes where these would be the
            network's.
    """
    descriptions = [describe(path) for path in weights]
    tasks = {description["task"] for description in descriptions}
    if len(tasks) > 1:
        raise InputError(f"--weights of several tasks ({', '.join(sorted(tasks))}); compare models of one task")
    (task,) = tasks
    if engines is None:
        # Compiling takes minutes: it is asked for.
        engines = ["torch", *(name for name in MODULES if is_installed(name))]
    candidates = [Candidate(name, None, "") for name in peers(task)]
    for label, path in short_names(weights).items():
        if is_exported(path):
            candidates.append(Candidate(label, path, "auto"))
        else:
            candidates += [Candidate(f"{label} {name}" if len(weights) > 1 else name, path, name) for name in engines]
    sizes = {image_size(path) for path in pictures}
    network_hw = size_hw or next(filter(None, map(input_size, descriptions)), None)
    if network_hw is None:
        if len(sizes) > 1:
            raise InputError(f"{pictures[0].parent}: its pictures differ in size; give --size HEIGHT WIDTH")
        (network_hw,) = sizes
    if task == JOINT and peer_weights is not None:
        raise InputError("--peer-weights: are of one model, and a joint network stands beside two; leave them out")
    num_classes = count_classes(descriptions[0])
    subject = Subject(task, num_classes, (network_hw[0], network_hw[1]), peer_weights)
    return Run(tuple(candidates), subject, pictures, image_size(pictures[0]), tuple(sorted(set(batches))), rounds)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Different paths by what tells them apart: without the folders that all have in common, or the name alone."""
    different = list(dict.fromkeys(paths))
    if len({Path(path).name for path in different}) == len(different):
        return {Path(path).name: path for path in different}
    common = os.path.commonpath([os.path.abspath(path) for path in different])
    return {os.path.relpath(path, common): path for path in different}


def describe(path: str) -> dict[str, Any]:
    """The description of a weights file, or of an exported one, which has the entry `export`."""
    return open_file(path, "auto").description if is_exported(path) else load_model(path)[1]


def input_size(description: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the network's input, pixels; None if it is the picture's."""
    if size := description.get("export", {}).get("size"):
        return size[0], size[1]
    singles = single_models(outline(description), description).values()
    return next((one.image_size_hw for one, _ in singles if isinstance(one, det.Detector)), None)


def outline(description: dict[str, Any]) -> nn.Module:
    """The model of a description, without weights."""
    with torch.device("meta"):
        return (CREATE | {JOINT: create})[description["task"]](**description["model"])


def count_classes(description: dict[str, Any]) -> dict[str, int]:
    """The number of classes by task."""
    singles = single_models(outline(description), description).values()
    found = {single["task"]: len(single["classes"]) for _, single in singles}
    if description["task"] == JOINT and len(found) < len(TASKS):
        raise InputError("--weights: a joint network with heads of one task; tools.split makes a file of each")
    return found


def multiply_adds(description: dict[str, Any], size_hw: tuple[int, int]) -> float:
    """The multiply-adds of the network for one input of (height, width), its output's upsampling left out."""
    return count_macs(outline(description), size_hw)


@contextmanager
def one_process(threads: int) -> Iterator[Callable[..., Any]]:
    """A function that runs others in one new process, whose libraries start with a number of threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

            def call(function: Callable[..., Any], *arguments: Any) -> Any:
                return pool.submit(with_threads, threads, function, *arguments).result()

            yield call
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def with_threads(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process whose torch and OpenCV have a number of threads."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return function(*arguments)


def measure(run: Run, threads: int) -> Measured:
    """Times all candidates, alternating; runs in a process of its own."""
    contenders = {candidate.name: candidate.open(run.subject) for candidate in run.candidates}
    gflops = matrix_rate()
    frames: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}

    def turn(name: str, contender: Contender) -> None:
        # The first frame finds caches and threads as another contender left them; the second one is counted.
        for counted, path in enumerate(itertools.islice(itertools.cycle(run.pictures), len(frames[name]), None)):
            start = time.perf_counter()
            frame = read_image(path)
            read = time.perf_counter() - start
            stages = contender.time_stages(frame)
            if counted:
                frames[name].append({"read": read, **stages._asdict()})
                return

    alternate({name: partial(turn, name, contender) for name, contender in contenders.items()}, run.rounds)
    frames = {name: counted[1:] for name, counted in frames.items()}  # without `alternate`'s warm-up
    frame = read_image(run.pictures[0])
    rates: dict[str, dict[int, float]] = {name: {} for name in contenders}
    for batch in run.batches:
        calls = {name: partial(contender.predict, [frame] * batch) for name, contender in contenders.items()}
        for name, seconds in alternate(calls, max(3, run.rounds // 4)).items():
            rates[name][batch] = batch / statistics.median(seconds)
    return Measured(max(gflops, matrix_rate()), frames, rates)


def matrix_rate() -> float:
    """10^9 operations per second of float32 matrix products, the most that the network's arithmetic could reach."""
    a = torch.randn(MATRIX, MATRIX)
    seconds = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / min(seconds) / 1e9


def peak_memory(candidate: Candidate, run: Run) -> float:
    """The peak memory, MiB, of a candidate's first frames; runs in a process of its own."""
    contender = candidate.open(run.subject)
    for _ in range(3):
        contender.time_stages(read_image(run.pictures[0]))
    return peak_mib()


def peak_mib() -> float:
    """The most memory that this process has held, MiB."""
    # Not getrusage: what it reports begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def summarise(run: Run, measured: dict[int, Measured], memory: dict[str, float], macs: float) -> dict[str, Any]:
    """Everything that was found, as benchmark.json holds it. Milliseconds, MiB, frames per second."""
    results = []
    for candidate in run.candidates:
        by_threads = {}
        for threads, found in measured.items():
            frames = found.frames[candidate.name]
            totals = [1000 * sum(frame.values()) for frame in frames]
            by_threads[threads] = {
                "p50_ms": statistics.median(totals),
                "p95_ms": float(np.percentile(totals, 95)),
                "stages_ms": {
                    stage: 1000 * statistics.median(frame[stage] for frame in frames)
                    for stage in ("read", *Stages._fields)
                },
                "frames_per_second": found.rates[candidate.name],
            }
        results.append(
            {
                "name": candidate.name,
                "weights": candidate.weights,
                "engine": candidate.engine,
                "threads": by_threads,
                "peak_memory_mib": memory[candidate.name],
                "file_bytes": candidate.num_bytes(),
            }
        )
    return {
        "task": run.subject.task,
        "picture_hw": list(run.picture_hw),
        "network_hw": list(run.subject.size_hw),
        "rounds": run.rounds,
        "multiply_adds": macs,
        "bounds": {
            threads: {"gflops": found.gflops, "network_ms": 2 * macs / found.gflops / 1e6}
            for threads, found in measured.items()
        },
        "processor": platform.processor() or platform.machine(),
        "versions": {name: metadata.version(name) for name in VERSIONS if find_spec(name) is not None},
        "results": results,
    }


def print_report(report: dict[str, Any]) -> None:
    """Prints tables of latencies and stages for each number of threads, and one of throughput, memory and files."""
    results = report["results"]
    (height, width), (rows_hw, columns_hw) = report["picture_hw"], report["network_hw"]
    console.print(f"pictures of {width}x{height}, network at {rows_hw}x{columns_hw} (height x width)")
    for threads, bound in report["bounds"].items():
        peer = results[0]["threads"][threads]["p50_ms"]
        latencies, stages = [], []
        for result in results:
            found = result["threads"][threads]
            share = 100 * bound["network_ms"] / found["stages_ms"]["network"]
            ratio = peer / found["p50_ms"]
            shown = [f"{found['p50_ms']:.1f}", f"{found['p95_ms']:.1f}", f"{ratio:.2f}x", f"{share:.0f}%"]
            latencies.append([result["name"], *shown])
            stages.append([result["name"], *(f"{value:.1f}" for value in found["stages_ms"].values())])
        title = f"ms, {threads} thread{'s' * (threads > 1)}"
        console.print(table(title, ["", "p50", "p95", "speed", "of bound"], latencies))
        console.print(table(f"stages, {title}", ["", *results[0]["threads"][threads]["stages_ms"]], stages))
        rate = f"{report['multiply_adds'] / 1e9:.3f} G multiply-adds at {bound['gflops']:.0f} GFLOP/s"
        console.print(
            f"speed: {PEER} is 1. Bound of the network: {rate}, as float32 matrices are multiplied, is "
            f"{bound['network_ms']:.1f} ms. {report['rounds']} alternating rounds.",
            soft_wrap=True,
        )
    rows = []
    for result in results:
        rates = [f"{rate:.1f}" for found in result["threads"].values() for rate in found["frames_per_second"].values()]
        size = result["file_bytes"]
        megabytes = "" if size is None else f"{size / 2**20:.1f}"
        rows.append([result["name"], *rates, f"{result['peak_memory_mib']:.0f}", megabytes])
    batches = results[0]["threads"][next(iter(report["bounds"]))]["frames_per_second"]
    columns = [f"{batch}/{threads}" for threads in report["bounds"] for batch in batches]
    title = "pictures per second by batch/threads; peak memory and file, MiB"
    console.print(table(title, ["", *columns, "memory", "file"], rows))
