"""The first steps of a run, an evaluation and a checkpoint, and what they say about time, memory and disk of the whole.

What a run does once, from the start of Python to the picture of its curves, is what these steps took beyond themselves.
"""

import math
import resource
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from tools import STARTED
from tools.io.console import console
from tools.run import checkpoint
from tools.run.config import AnyConfig, Run
from tools.run.curves import read_log
from tools.run.disk import Disk
from tools.run.evaluation import best_file, evaluate_and_keep_best, evaluation_is_due
from tools.run.loading import PREFETCH, Loaded, batches, make_loader
from tools.run.log import Log
from tools.run.loop import train
from tools.run.processes import gather_parts
from tools.run.state import TrainingState
from tools.run.task import Task

WARM_UP = 2
"""Steps that are slower than those to come: memory is allocated, kernels are chosen or compiled."""
STEPS, SECONDS = 8, 4.0
"""So many steps and so much time are needed to know a step's time."""
LIMIT = 60.0
"""After so many seconds of steps it is known as well as it can be."""
LOG_EVERY = 2
"""A GPU has made all steps when a row is logged; only then is the time taken."""
SHORT = 10.0
"""Seconds; an evaluation that took less is made again, as the first one imports and allocates."""
SAVES = 2
"""The second one keeps the first as last-1.pt, as those to come do."""
EVENTS = "events*"
"""TensorBoard's files."""


def dry(config: Any, folder: str) -> Any:
    """The config of the same run into another folder, which reports to no server."""
    run = replace(config.run, out=folder, trackers=[name for name in config.run.trackers if name == "tensorboard"])
    return replace(config, run=run)


def dry_run(config: AnyConfig, accelerator: Accelerator, task: Task, state: TrainingState) -> int:
    """Makes the first steps of a run, an evaluation and a checkpoint in `config.run.out`; prints what the whole takes.

    Returns:
        The process's exit code, not 0 where training ended before its time was known.
    Raises:
        InputError: what a run raises.
    """
    run, out, disk = config.run, Path(config.run.out), Disk()
    never, most = run.steps + 1, max(1, run.steps - 1)  # the last step of a run evaluates and saves
    first = replace(run, eval_every=never, save_every=never, log_every=min(LOG_EVERY, run.log_every, most))
    pace = Pace(first, config.data.workers, accelerator)
    data = pace.until_known(batches(make_loader(config, accelerator, task, 0), run.accumulate))
    code = train(replace(config, run=first), accelerator, task, state, data)
    if code:
        return code
    events_of_steps = _num_bytes(out.glob(EVENTS))
    evaluations, saves = [], []  # seconds
    with closing(Log(out, config, state.step, disk)) if accelerator.is_main_process else nullcontext() as log:
        while not evaluations or gather_parts(accelerator, len(evaluations) == 1 and evaluations[0] < SHORT)[0]:
            state.best = -math.inf  # so that the weights are written each time
            began = time.perf_counter()
            evaluate_and_keep_best(task, run, state, log, disk)
            evaluations.append(time.perf_counter() - began)
        for _ in range(SAVES):
            began = time.perf_counter()
            state.save(disk)
            saves.append(time.perf_counter() - began)
    if not accelerator.is_main_process:
        return 0
    made = Made(
        steps=state.step,
        evaluations=len(evaluations),
        rows=state.step // first.log_every,
        events_of_steps=events_of_steps,
        events_of_evaluations=_num_bytes(out.glob(EVENTS)) - events_of_steps,
    )
    step, evaluation, save = pace.seconds_of_step(), evaluations[-1], saves[-1]
    known = state.step * step + len(evaluations) * evaluation + len(saves) * save
    once = max(0.0, time.perf_counter() - STARTED - known)
    evaluated, saved = num_evaluations(run), num_saves(run)
    total = once + run.steps * step + evaluated * evaluation + saved * save
    console.out(
        f"time: about {_duration(total)} for {run.steps} steps of {step:.2g} s, {evaluated} evaluations of "
        f"{evaluation:.2g} s, {saved} checkpoints of {save:.2g} s, and {once:.0f} s once"
    )
    console.out(f"memory: {_memory(config.data.workers)}")
    left, state_size = disk_left(run, out, made) / 1e6, (out / checkpoint.LAST).stat().st_size / 1e6
    console.out(f"disk: {left:.0f} MB at the end, and {state_size:.0f} MB more while a state is written")
    shares = read_log(out / "log.csv").get("teacher_share")
    if shares:
        console.out(f"teacher: {100 * shares[-1][1]:.0f} % of a step's time")
    return 0


class Pace:
    """Passes a run's batches on until the time of its steps is known.

    Workers have batches ready when the first step ends; where loading is what takes longest, only the steps after these
    show it.

    Arguments:
        run: of at least one step.
        workers: of its loader.
    """

    def __init__(self, run: Run, workers: int, accelerator: Accelerator) -> None:
        self.every, self.accelerator = run.log_every, accelerator
        self.most = max(1, run.steps - 1)
        ready = -(-PREFETCH * workers // run.accumulate)
        self.uncounted = WARM_UP + -(-ready // self.every) * self.every
        self.times: list[float] = []  # of the beginning of each step, and of the end of the last

    def until_known(self, data: Generator[list[Loaded], None, None]) -> Generator[list[Loaded], None, None]:
        """The batches of so many steps as it takes; all processes end with the same one."""
        with closing(data):
            self.times = [time.perf_counter()]
            for parts in data:
                yield parts
                self.times.append(time.perf_counter())
                steps = len(self.times) - 1
                if steps >= self.most:
                    return
                if steps % self.every == 0 and gather_parts(self.accelerator, self._is_known(steps))[0]:
                    return

    def seconds_of_step(self) -> float:
        """The mean of the last steps."""
        steps = len(self.times) - 1
        first = next((first for first in (self.uncounted, WARM_UP) if first < steps), steps - 1)
        return (self.times[-1] - self.times[first]) / (steps - first)

    def _is_known(self, steps: int) -> bool:
        if self.times[-1] - self.times[0] > LIMIT:
            return steps > WARM_UP
        return steps >= self.uncounted + STEPS and self.times[-1] - self.times[self.uncounted] > SECONDS


class Made(NamedTuple):
    """What a dry run has made and written."""

    steps: int
    evaluations: int
    rows: int  # of steps, in log.csv
    events_of_steps: int  # bytes of TensorBoard's files
    events_of_evaluations: int


def num_evaluations(run: Run) -> int:
    """How many evaluations a run has."""
    return sum(evaluation_is_due(run, step) for step in range(1, run.steps + 1))


def num_saves(run: Run) -> int:
    """How many checkpoints a run writes."""
    return -(-run.steps // run.save_every)


def disk_left(run: Run, folder: Path, made: Made) -> int:
    """The bytes that a run leaves, from those of a dry run of it in a folder."""
    evaluations = num_evaluations(run)
    rows = -(-run.steps // run.log_every)
    log = (folder / "log.csv").read_bytes().splitlines(keepends=True)[1:]
    of_evaluations = sum(len(line) for line in log if b",val/" in line)
    of_rows = sum(map(len, log)) - of_evaluations
    each_row = (of_rows + made.events_of_steps) / made.rows
    samples = _num_bytes((folder / "samples").rglob("*.jpg"))  # an evaluation that was made again wrote the same files
    each_evaluation = samples + (of_evaluations + made.events_of_evaluations) / made.evaluations
    best = best_file(run).stat().st_size
    kept = min(run.keep_best, evaluations) * best
    state = (folder / checkpoint.LAST).stat().st_size
    once = _num_bytes([folder / "config.yaml", *folder.glob("curves.png")])
    return round(min(2, num_saves(run)) * state + best + kept + rows * each_row + evaluations * each_evaluation + once)


def _num_bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _memory(workers: int) -> str:
    unit = 1 if sys.platform == "darwin" else 1024
    one = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    text = f"{one / 1e9:.2f} GB in each training process"
    if workers:
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
        text += f", up to {worker / 1e9:.2f} GB in each of {workers} loader workers, partly shared"
    if torch.cuda.is_available():
        text += f", {torch.cuda.max_memory_allocated() / 1e9:.2f} GB on the GPU"
    return text


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if seconds > 600 else f"{seconds:.0f} s"
