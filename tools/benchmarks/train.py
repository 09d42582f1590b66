"""A training run as `tools.train_seg` and `tools.train_det` make it, beside a bare loop and torchvision's own."""

import dataclasses
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from tools.benchmarks.predict import one_process, peak_mib
from tools.benchmarks.train_loops import Loop, bare_loop, reference_loop
from tools.io.console import console, table
from tools.io.files import open_folder, replace_file
from tools.io.shipped import find_config
from tools.run import detection, segmentation
from tools.run.config import DetConfig, SegConfig, load
from tools.run.loading import Loaded, batches, make_loader
from tools.run.loop import train
from tools.run.pretrained import settle
from tools.run.processes import make_accelerator
from tools.run.state import TrainingState
from tools.run.task import Task

OURS, BARE, PEER = "taproot", "bare loop", "torchvision"
CONTENDERS = (OURS, BARE, PEER)
WARM_UP = 3
"""Steps of each contender that are not counted."""
FILE = "benchmark-train.json"
PARTS = ("wait for data", "forward", "backward", "step", "average", "rest")
"""What a step is made of; the rest is logging, progress, and what the loop looks after between its steps."""
OCCASIONS = ("evaluate", "save")

AnyConfig = SegConfig | DetConfig


class Round(NamedTuple):
    """A round of a contender."""

    seconds: float
    processor_seconds: float  # of all threads, and of the loader workers


class Measured(NamedTuple):
    """What the contenders took, by name."""

    rounds: dict[str, list[Round]]
    parts: dict[str, float]  # seconds of all our rounds by `PARTS`, and of one each of `OCCASIONS`
    parameters: dict[str, int]


class Stopwatch:
    """Adds up the time of a run by part, without a gap: each part ends where another begins.

    Attributes:
        seconds: by part, since `clear`.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Gives the time since the last call to a part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def around(self, function: Callable[..., Any], part: str, before: str = "rest") -> Callable[..., Any]:
        """A function whose time goes to a part, and the time until it is called to the part `before`."""

        def timed(*arguments: Any) -> Any:
            self.lap(before)
            result = function(*arguments)
            self.lap(part)
            return result

        return timed

    def waiting(self, data: Generator[list[Loaded], None, None]) -> Generator[list[Loaded], None, None]:
        """The same batches; the time until there is one is that of waiting for data."""
        with closing(data):
            while True:
                self.lap("rest")
                parts = next(data, None)
                self.lap("wait for data")
                if parts is None:
                    return
                yield parts


def benchmark(*, task: str, config: Path, overrides: list[str], steps: int | None, rounds: int, out: Path) -> None:
    """Prints the comparison and writes it into the folder `out` as benchmark-train.json.

    Arguments:
        task: seg or det.
        config: of the run, with `key=value` overrides as the training tools take them.
        steps: of each contender in a round; None: as many as there are between two rows of the run's log.

    Raises:
        InputError: the config or the data cannot be used, or `out` cannot be written.
    """
    settled = settle(load({"seg": SegConfig, "det": DetConfig}[task], find_config(config), overrides)).config
    per_round = settled.run.log_every if steps is None else steps
    open_folder(out)
    threads = settled.run.threads or torch.get_num_threads()
    console.print(f"timing {rounds} rounds of {per_round} steps of {', '.join(CONTENDERS)}", soft_wrap=True)
    with one_process(threads) as call:
        measured, device = call(measure, settled, per_round, rounds)
    memory = {}
    for name in CONTENDERS:
        with one_process(threads) as call:
            memory[name] = call(peak_memory, settled, name)
    report = summarise(settled, measured, memory, per_round, threads) | {"device": device}
    print_report(report)
    replace_file(out / FILE, lambda part: part.write_text(json.dumps(report, indent=1)))
    console.print(f"wrote {out / FILE}", soft_wrap=True)


def measure(config: AnyConfig, steps: int, rounds: int) -> tuple[Measured, str]:
    """Times the contenders; in a process of its own.

    The run is a real one, into a temporary folder. Before each of its rounds it lets the others make theirs, so that a
    machine that grows slower treats all alike.

    Arguments:
        config: settled.
        steps: of a round.
    Returns:
        What was found, and the device's name.
    """
    console.quiet = True  # the run's own speed counts the time of the others' rounds
    accelerator = make_accelerator(config.run.precision)
    total = WARM_UP + steps * rounds + 1  # the first step after the last round ends it
    found: dict[str, list[Round]] = {name: [] for name in CONTENDERS}
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        config = short_run(config, folder, total)
        bare = bare_loop(config, accelerator, make_task(config, accelerator))
        reference, peer = reference_loop(config, accelerator, make_task(config, accelerator))
        others: dict[str, Loop] = {BARE: bare, PEER: reference}
        task = make_task(config, accelerator)
        began = Clock(accelerator)

        def before_step(step: int) -> None:
            nonlocal began
            if step == 0:
                for loop in others.values():
                    loop(WARM_UP)
            done, rest = divmod(step - WARM_UP, steps)
            if step < WARM_UP or rest:
                return
            if done:
                watch.lap("rest")
                found[OURS].append(began.stop())
            if done == rounds:
                in_rounds.update(watch.seconds)
                return
            paused = dict(watch.seconds)
            for name in list(others) if done % 2 else list(others)[::-1]:
                began = Clock(accelerator)
                others[name](steps)
                found[name].append(began.stop())
            began = Clock(accelerator)
            watch.clear()
            watch.seconds = paused if done else {}

        in_rounds: dict[str, float] = {}
        task = dataclasses.replace(task, before_step=before_step, evaluate=watch.around(task.evaluate, "evaluate"))
        run(config, accelerator, task, watch)
    parts = {part: in_rounds.get(part, 0.0) for part in PARTS}
    parts |= {part: watch.seconds[part] for part in OCCASIONS}
    ours = num_parameters(task.model)
    return Measured(found, parts, {OURS: ours, BARE: ours, PEER: num_parameters(peer)}), accelerator.device.type


def short_run(config: AnyConfig, folder: str, steps: int) -> AnyConfig:
    """The config of a run of so many steps into a folder, evaluated and saved once, at its end."""
    run = dataclasses.replace(
        config.run, out=folder, steps=steps, eval_every=steps, save_every=steps, patience=None, keep_best=0
    )
    return dataclasses.replace(config, run=run)


def make_task(config: AnyConfig, accelerator: Accelerator) -> Task:
    """The task of a settled config, its network with the weights that the config names."""
    torch.manual_seed(config.run.seed)
    if isinstance(config, SegConfig):
        task = segmentation.make_task(config, accelerator)
    else:
        task = detection.make_task(config, accelerator)
    if config.weights is not None:
        task.load_weights(config.weights)
    return task


def run(config: AnyConfig, accelerator: Accelerator, task: Task, watch: Stopwatch) -> None:
    """The run itself, its parts timed."""
    state = TrainingState(config, accelerator, task.model, len(task.train_set))
    guard = state.guard
    guard.begin = watch.around(guard.begin, "rest")
    guard.backward = watch.around(guard.backward, "backward", before="forward")
    guard.step = watch.around(guard.step, "step")
    guard.update_average = watch.around(guard.update_average, "average", before="step")
    state.save = watch.around(state.save, "save")
    data = batches(make_loader(config, accelerator, task, 0), config.run.accumulate)
    train(config, accelerator, task, state, watch.waiting(data))


class Clock:
    """Elapsed and processor time since it was made; a GPU has finished what it was given at both ends."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.on_gpu = accelerator.device.type == "cuda"
        self.began = self._now()

    def stop(self) -> Round:
        now = self._now()
        return Round(now.seconds - self.began.seconds, now.processor_seconds - self.began.processor_seconds)

    def _now(self) -> Round:
        if self.on_gpu:
            torch.cuda.synchronize()
        return Round(time.perf_counter(), time.process_time() + sum(processor_seconds_of_children()))


def processor_seconds_of_children() -> Iterator[float]:
    """The processor time of each loader worker that lives."""
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        yield (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_memory(config: AnyConfig, name: str) -> float:
    """The peak memory, MiB, of a contender's first steps, its loader workers left out; in a process of its own."""
    console.quiet = True
    accelerator = make_accelerator(config.run.precision)
    with tempfile.TemporaryDirectory() as folder:
        config = short_run(config, folder, WARM_UP)
        task = make_task(config, accelerator)
        if name == OURS:
            task = dataclasses.replace(task, evaluate=lambda model: {task.score: 0.0})
            run(config, accelerator, task, Stopwatch())
        else:
            loop = (
                bare_loop(config, accelerator, task) if name == BARE else reference_loop(config, accelerator, task)[0]
            )
            loop(WARM_UP)
    return torch.cuda.max_memory_allocated() / 2**20 if accelerator.device.type == "cuda" else peak_mib()


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def summarise(
    config: AnyConfig, measured: Measured, memory: dict[str, float], steps: int, threads: int
) -> dict[str, Any]:
    """Everything that was found, as the JSON file holds it; milliseconds, MiB, images per second."""
    settings, cores = config.run, len(os.sched_getaffinity(0))
    results = {}
    for name, rounds in measured.rounds.items():
        seconds = [found.seconds for found in rounds]
        processor = [found.processor_seconds for found in rounds]
        results[name] = {
            "images_per_second": settings.batch * steps / statistics.median(seconds),
            "step_ms": 1000 * statistics.median(seconds) / steps,
            "step_ms_range": [1000 * min(seconds) / steps, 1000 * max(seconds) / steps],
            "processor_ms": 1000 * statistics.median(processor) / steps,
            "processor_share": sum(processor) / sum(seconds) / cores,
            "peak_memory_mib": memory[name],
            "parameters": measured.parameters[name],
        }
    per_step = {part: 1000 * measured.parts[part] / (steps * len(measured.rounds[OURS])) for part in PARTS}
    pairs = list(zip(measured.rounds[OURS], measured.rounds[BARE], strict=True))
    return {
        "task": "segmentation" if isinstance(config, SegConfig) else "detection",
        "backbone": config.model.backbone,
        "batch": settings.batch,
        "input_hw": list(config.augment.crop_hw if isinstance(config, SegConfig) else config.model.image_size),
        "workers": config.data.workers,
        "threads": threads,
        "cores": cores,
        "steps": steps,
        "rounds": len(pairs),
        "results": results,
        "overhead": {
            "elapsed": statistics.median(ours.seconds / bare.seconds - 1 for ours, bare in pairs),
            "processor": statistics.median(ours.processor_seconds / bare.processor_seconds - 1 for ours, bare in pairs),
        },
        "parts_ms": per_step,
        "evaluate_s": measured.parts["evaluate"],
        "save_s": measured.parts["save"],
        "eval_every": settings.eval_every,
        "save_every": settings.save_every,
        "processor": platform.processor() or platform.machine(),
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "accelerate")},
    }


def print_report(report: dict[str, Any]) -> None:
    """Prints a table of the contenders, the loop's overhead, and a table of our step by part."""
    (height, width), results = report["input_hw"], report["results"]
    rows = [
        [
            name,
            f"{found['images_per_second']:.1f}",
            f"{found['step_ms']:.1f}",
            f"{results[PEER]['step_ms'] / found['step_ms']:.2f}x",
            f"{found['processor_ms']:.1f}",
            f"{100 * found['processor_share']:.0f} %",
            f"{found['peak_memory_mib']:.0f}",
            f"{found['parameters'] / 1e6:.1f} M",
        ]
        for name, found in results.items()
    ]
    title = (
        f"{report['task']}, {report['backbone']}, {report['batch']} images of {height}x{width} a step, "
        f"{report['threads']} threads, {report['workers']} loader workers, {report['device']}"
    )
    columns = ["", "images/s", "ms a step", "speed", "processor", "share", "MiB", "weights"]
    console.print(table(title, columns, rows))
    overhead = report["overhead"]
    console.print(
        f"{OURS}: {100 * overhead['elapsed']:+.1f} % to the {BARE}'s time, {100 * overhead['processor']:+.1f} % to its "
        f"processor time; medians of {report['rounds']} alternating rounds of {report['steps']} steps. processor: ms a "
        f"step; share: of {report['cores']} cores. {PEER}'s network is on MobileNetV3 Large.",
        soft_wrap=True,
    )
    parts = report["parts_ms"] | {
        f"{part}, every {report[f'{every}_every']} steps": 1000 * report[f"{part}_s"] / report[f"{every}_every"]
        for part, every in (("evaluate", "eval"), ("save", "save"))
    }
    total = sum(parts.values())
    shown = [[part, f"{value:.2f}", f"{100 * value / total:.1f} %"] for part, value in parts.items()]
    console.print(table(f"{OURS}, by part", ["", "ms a step", "share"], shown))
