"""The training loop that all tasks share: read `train` from top to bottom.

Whatever is random follows from numbers: the order of samples from (seed, epoch), a sample's augmentation from
(seed, epoch, index), dropout from (seed, step, process), the learning rate from (step, steps). So a run that was
interrupted goes on as if nothing had happened, at any step and with any number of loader workers.
"""

import math
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, nullcontext
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from backbone.errors import InputError
from tools.io.console import console, progress
from tools.run.config import AnyConfig, Run
from tools.run.curves import draw_curves
from tools.run.disk import NOT_WRITTEN, Disk
from tools.run.evaluation import (
    evaluate_and_keep_best,
    evaluation_is_due,
    evaluation_is_missing,
    patience_is_lost,
)
from tools.run.guard import NON_FINITE
from tools.run.loading import Loaded, batches, make_loader, told_in_one_line
from tools.run.log import Log, show
from tools.run.memory import add_gradients_that_fit
from tools.run.order import seed_step
from tools.run.processes import gather_parts, to_device
from tools.run.schedule import for_batch, learning_rate
from tools.run.signals import StopSignal
from tools.run.state import TrainingState
from tools.run.task import Loss, Task, image_path, sample_order

NOTHING_CHANGED = "the loss or a gradient was not finite, nothing was changed"


def train(
    config: AnyConfig,
    accelerator: Accelerator,
    task: Task,
    state: TrainingState,
    data: Generator[list[Loaded], None, None] | None = None,
) -> int:
    """Trains from the step of `state` on into the folder `config.run.out`.

    Arguments:
        data: the batch of each step to come, in its parts; by default what `make_loader` loads.
    Returns:
        The process's exit code: 0, `NON_FINITE`, `NOT_WRITTEN`, or 128 and the signal that ended the run.
    Raises:
        InputError: an image is damaged, an evaluation fails, or the folder cannot be written. What was learned until
            then is saved; resuming makes up for an evaluation that failed.
    """
    run, optim = config.run, for_batch(config.optim, config.run.batch)
    out, is_main = Path(run.out), accelerator.is_main_process
    model, loss = compiled(run, accelerator, state.parallel, task.loss)
    data = data or batches(make_loader(config, accelerator, task, state.step), run.accumulate)
    first, guard, disk = state.step, state.guard, Disk()
    with ExitStack() as stack:
        stack.enter_context(told_in_one_line(config.data.workers))
        stop = stack.enter_context(StopSignal())
        bar = stack.enter_context(progress("{task.fields[note]}"))
        log = stack.enter_context(closing(Log(out, config, first, disk))) if is_main else None
        line = bar.add_task("training", total=run.steps, completed=first, note="", visible=is_main)
        try:
            if evaluation_is_missing(run, state, accelerator):
                evaluate_and_keep_best(task, run, state, log, disk)
                state.save(disk)
            ends = patience_is_lost(run, state, accelerator)
            clock, timed_from = time.perf_counter(), first
            for parts in () if ends else stack.enter_context(closing(data)):
                rate = learning_rate(optim, state.step, run.steps)
                if task.before_step is not None:
                    task.before_step(state.step)
                state.prepare_step(state.step, rate)
                guard.begin()
                terms = add_gradients_that_fit(
                    run, state, parts, lambda run, parts: add_gradients(run, accelerator, state, model, loss, parts)
                )
                state.drop_frozen_gradients(state.step)
                norm = guard.step(state.step, optim.clip)
                state.step += 1

                logged = state.step % run.log_every == 0 or state.step == run.steps
                if guard.reads_at_once or logged:  # a GPU is asked for numbers when a row is due, and not before
                    in_a_row, began, left_out = guard.counts.tolist()
                    if in_a_row and is_main:
                        console.out(f"warning: step {state.step}: {NOTHING_CHANGED} ({in_a_row} in a row)")
                    if in_a_row >= guard.limit:
                        return end_non_finite(config, accelerator, task, state, began, terms, rate, disk)
                    if log is not None and logged:
                        speed = (state.step - timed_from) * run.batch / (time.perf_counter() - clock)
                        row = {name: term.item() for name, term in terms.items()}
                        row |= task.measured() if task.measured is not None else {}
                        row |= {"loss": total_loss(terms).item(), "gradient_norm": norm.item()}
                        note = f"loss {row['loss']:.3f}  lr {rate:.2g}  {speed:.1f} images/s"
                        row = {name: value for name, value in row.items() if math.isfinite(value)}
                        row |= {"left_out": left_out} if left_out else {}
                        row |= teacher_share(task, run, state.accumulate, speed)
                        log.write(state.step, row | {"lr": rate, "images_per_second": speed})
                        show(bar, line, state.step, run.steps, note)
                        clock, timed_from = time.perf_counter(), state.step
                bar.update(line, completed=state.step)

                if evaluation_is_due(run, state.step):
                    pause = time.perf_counter()
                    evaluate_and_keep_best(task, run, state, log, disk)
                    clock += time.perf_counter() - pause
                    ends = patience_is_lost(run, state, accelerator)
                signalled = stop.agreed(accelerator)
                if state.step % run.save_every == 0 or state.step == run.steps or signalled or ends:
                    state.damaged.share(accelerator)
                    state.save(disk)
                if signalled and state.step < run.steps:
                    if is_main:
                        console.out(f"stopped after step {state.step}; go on with --resume")
                    return 128 + signalled
                if ends:
                    break
        except InputError as error:
            if state.step > first:
                save_before_end(state, disk, error)
            raise
    if is_main:
        if ends and state.step < run.steps:
            console.out(f"ended after step {state.step}: {run.patience} evaluations without a better score")
        state.damaged.say_all()
        disk.write(out / "curves.png", lambda: draw_curves(out / "log.csv", out / "curves.png"))
    if (missing := disk.summary()) is not None:
        console.out(f"error: {missing}")
        return NOT_WRITTEN
    return 0


def teacher_share(task: Task, run: Run, parts: int, speed: float) -> dict[str, float]:
    """The share of a step's time that the teacher takes, as a log row has it; nothing where it cannot be told apart.

    Arguments:
        parts: in which a process takes its share of a batch.
        speed: images per second over all processes.
    """
    seconds = None if task.teacher is None else task.teacher.seconds()
    return {} if seconds is None else {"teacher_share": seconds * parts * speed / run.batch}


def save_before_end(state: TrainingState, disk: Disk, error: InputError) -> None:
    """Saves what was learned until an error; where that fails too, the error is still the one to be told."""
    try:
        state.save(disk)
    except InputError:
        raise error from None


def add_gradients(
    run: Run,
    accelerator: Accelerator,
    state: TrainingState,
    model: nn.Module,
    loss: Loss,
    parts: list[Loaded],
) -> dict[str, Tensor]:
    """Adds up the gradients of the mean loss over the parts of a step's batch; processes exchange them with the last.

    Arguments:
        model, loss: as `compiled` gives them.
    Returns:
        The loss's terms, each the mean over the parts.
    Raises:
        InputError: too many images are damaged; nothing has changed.
    """
    state.damaged.meet([fault for part in parts for fault in part.faults])  # may end the run: before anything changes
    sums: dict[str, Tensor] = {}
    for number, (batch, _) in enumerate(parts):
        seed_step(run, state.step, accelerator.process_index, number)
        with nullcontext() if number + 1 == len(parts) else accelerator.no_sync(state.parallel):
            terms = loss(model, to_device(batch, accelerator.device))
            terms = {name: term / len(parts) for name, term in terms.items()} if len(parts) > 1 else terms
            state.guard.backward(total_loss(terms))
        sums = {name: sums[name] + term.detach() if number else term.detach() for name, term in terms.items()}
    return sums


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The sum of a loss's terms, all scalars."""
    return reduce(torch.add, terms.values())


def compiled(run: Run, accelerator: Accelerator, model: nn.Module, loss: Loss) -> tuple[nn.Module, Loss]:
    """The model and the loss as a step calls them, with `run.compile` compiled as one."""
    if run.compile and accelerator.num_processes > 1:
        parallel: Any = torch.compile(model)
        return parallel, loss  # the gradients' exchange is no part of a graph
    if run.compile:
        return model, torch.compile(loss, dynamic=False)
    return model, loss


def end_non_finite(
    config: AnyConfig,
    accelerator: Accelerator,
    task: Task,
    state: TrainingState,
    began: int,
    terms: dict[str, Tensor],
    rate: float,
    disk: Disk,
) -> int:
    """Says why the run ends and saves it as it was before the first of the steps left out. All processes call it.

    Arguments:
        began: the number, from 0, of that step.
        terms: what this process's loss of the newest step is made of.
    Returns:
        The exit code.
    """
    process = say_non_finite(accelerator, state.step, terms, rate)
    state.go_back(began)
    state.suspect = [process, accelerator.num_processes]
    state.save(disk)
    if accelerator.is_main_process:
        images = names_of_step(config, task, began, process, accelerator.num_processes)
        console.out(f"images of step {began + 1}, the first of these: {', '.join(images)}")
        console.out(
            f"last.pt is the state before step {began + 1}: --replay runs this step again and names what is first not "
            "finite. If images and labels are sound, start again with a lower optim.lr, with optim.clip=1 or with "
            "run.precision=no; --resume goes on as before, after the images were corrected."
        )
    return NON_FINITE


def say_non_finite(accelerator: Accelerator, step: int, terms: dict[str, Tensor], rate: float) -> int:
    """Says which loss is not finite, or that it is the gradient; returns the process that began it, else 0.

    Arguments:
        step: how many steps there were, with this one.
        terms: what this process's loss is made of.
    """
    parts = gather_parts(accelerator, {name: term.item() for name, term in terms.items()})
    totals = [sum(part.values()) for part in parts]
    culprit = next((process for process, value in enumerate(totals) if not math.isfinite(value)), 0)
    if accelerator.is_main_process:
        where = f" in process {culprit}" if len(parts) > 1 else ""
        found = ", ".join(f"{name} {value:g}" for name, value in parts[culprit].items())
        what = f"the loss is {totals[culprit]}{where}"
        if math.isfinite(totals[culprit]):
            what = f"the loss is {totals[culprit]:g}, but a gradient is not finite"
        console.out(f"error: step {step}: {what} ({found}) at learning rate {rate:g}; nothing was changed.")
    return culprit


def names_of_step(config: AnyConfig, task: Task, step: int, process: int, num_processes: int) -> list[str]:
    """The names of the images of a process's batch in step number `step`."""
    order = sample_order(task.train_set, config.run, start=step, process=process, num_processes=num_processes)
    parts = islice(order, config.run.accumulate)
    return [str(image_path(task.train_set, index)) for part in parts for _, index in part]
