"""Two steps and one evaluation of a run, and what they say about the time, memory and disk of the whole."""

import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from tools.io.console import console
from tools.run import checkpoint
from tools.run.config import Arguments, Config
from tools.run.curves import read_log
from tools.run.evaluation import best_file, evaluation_is_due
from tools.run.task import Task

STEPS = 2
BYTES_OF_ROW = 30
"""Of a row of log.csv, and as much in TensorBoard's events."""

MakeTask = Callable[[Any, Accelerator], Task]


def dry_run(make_task: MakeTask, arguments: Arguments[Config], start: Callable[[MakeTask, Arguments], int]) -> int:
    """Makes the first steps of a run in a temporary folder and prints what the whole run would take.

    Arguments:
        start: makes a run of a task's maker and a command line; returns its exit code.
    Returns:
        The exit code of these steps.
    """
    evaluations: list[float] = []  # seconds

    def make_timed(config: Any, accelerator: Accelerator) -> Task:
        task = make_task(config, accelerator)

        def evaluate(model: nn.Module) -> dict[str, float]:
            began = time.perf_counter()
            scores = task.evaluate(model)
            evaluations.append(time.perf_counter() - began)
            return scores

        return dataclasses.replace(task, evaluate=evaluate)

    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(
            arguments.config.run,
            out=folder,
            steps=STEPS,
            eval_every=STEPS,
            save_every=STEPS,
            log_every=1,
            trackers=["tensorboard"],
        )
        config = dataclasses.replace(arguments.config, run=run)
        code = start(make_timed, arguments._replace(config=config))
        if code == 0:
            for line in estimate(arguments.config, Path(folder), evaluations[0]):
                console.out(line)
    return code


def estimate(config: Any, folder: Path, seconds_of_evaluation: float) -> list[str]:
    """What a whole run takes, in lines.

    Arguments:
        folder: of the short run that was made.
    """
    run = config.run
    rows = read_log(folder / "log.csv")
    seconds_of_step = run.batch / rows["images_per_second"][-1][1]
    state, best = folder / checkpoint.LAST, best_file(dataclasses.replace(run, out=str(folder)))
    began = time.perf_counter()
    checkpoint.save_state(state, checkpoint.load_state(state))
    seconds_of_save = time.perf_counter() - began
    evaluations = sum(evaluation_is_due(run, step) for step in range(1, run.steps + 1))
    saves = -(-run.steps // run.save_every)
    total = run.steps * seconds_of_step + evaluations * seconds_of_evaluation + saves * seconds_of_save

    one = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    memory = f"{one / 1e9:.1f} GB in each training process"
    if config.data.workers:
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        memory += f", up to {worker / 1e9:.1f} GB in each of {config.data.workers} loader workers, partly shared"
    if torch.cuda.is_available():
        memory += f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU"
    log_rows = len(rows) * (run.steps // run.log_every + evaluations)
    states, weights = 3 * state.stat().st_size, (2 + run.keep_best) * best.stat().st_size
    disk = states + weights + 2 * BYTES_OF_ROW * log_rows
    lines = [
        f"time: about {_duration(total)} for {run.steps} steps of {seconds_of_step:.2f} s, "
        f"{evaluations} evaluations of {seconds_of_evaluation:.1f} s, {saves} checkpoints of {seconds_of_save:.2f} s",
        f"memory: {memory}",
        f"disk: {disk / 1e6:.0f} MB ({state.stat().st_size / 1e6:.0f} MB a state, of which three are there at most)",
    ]
    if "teacher_share" in rows:
        lines.append(f"teacher: {100 * rows['teacher_share'][-1][1]:.0f} % of a step's time")
    return lines


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else (f"{minutes} min" if minutes else f"{seconds:.0f} s")
