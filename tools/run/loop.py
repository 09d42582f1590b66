"""The training loop that all tasks share: read `train` from top to bottom.

Whatever is random follows from numbers: the order of samples from (seed, epoch), a sample's augmentation from
(seed, epoch, index), dropout from (seed, step, process), the learning rate from (step, steps). So a run that was
interrupted goes on as if nothing had happened, at any step and with any number of loader workers.
"""

import math
import time
from contextlib import ExitStack, closing
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbone.errors import InputError
from tools.io.console import console, progress
from tools.run.config import AnyConfig, Run
from tools.run.curves import draw_curves
from tools.run.evaluation import evaluate_and_keep_best, evaluation_is_due, evaluation_is_missing
from tools.run.log import Log, show
from tools.run.order import SampleOrder, seed_step
from tools.run.processes import gather_parts, gather_values, single_thread, to_device
from tools.run.schedule import for_batch, learning_rate
from tools.run.signals import StopSignal
from tools.run.state import TrainingState
from tools.run.task import Loss, Task

NON_FINITE = 20
"""Exit code of a run that stopped because its loss was not a finite number."""


def train(config: AnyConfig, accelerator: Accelerator, task: Task, state: TrainingState) -> int:
    """Trains from the step of `state` on into the folder `config.run.out`.

    Returns:
        The process's exit code: 0, `NON_FINITE`, or 128 and the signal that ended the run.
    Raises:
        InputError: an image is damaged, an evaluation fails, or the folder cannot be written. What was learned until
            then is saved; resuming makes up for an evaluation that failed.
    """
    run, optim = config.run, for_batch(config.optim, config.run.batch)
    out, is_main, process = Path(run.out), accelerator.is_main_process, accelerator.process_index
    model, loss = compiled(run, accelerator, state.parallel, task.loss)
    loader = make_loader(config, accelerator, task, state.step)
    first = state.step
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        bar = stack.enter_context(progress("{task.fields[note]}"))
        log = stack.enter_context(closing(Log(out, config, first))) if is_main else None
        line = bar.add_task("training", total=run.steps, completed=first, note="", visible=is_main)
        try:
            if evaluation_is_missing(run, state, accelerator):
                evaluate_and_keep_best(task, run, state, log)
                state.save()
            clock, timed_from = time.perf_counter(), first
            for batch in loader:
                rate = learning_rate(optim, state.step, run.steps)
                seed_step(run, state.step, process)
                if task.before_step is not None:
                    task.before_step(state.step)
                state.prepare_step(state.step, rate)
                terms = loss(model, to_device(batch, accelerator.device))
                total = total_loss(terms)
                values = gather_values(accelerator, total)
                if not all(math.isfinite(value) for value in values):
                    return stop_non_finite(accelerator, state.step, values, terms, rate)
                accelerator.backward(total)
                state.drop_frozen_gradients(state.step)
                if optim.clip:
                    accelerator.clip_grad_norm_(state.parallel.parameters(), optim.clip)
                state.optimizer.step()
                state.optimizer.zero_grad()
                if state.average is not None and not accelerator.optimizer_step_was_skipped:
                    state.average.update_parameters(state.model)
                state.step += 1

                if log is not None and (state.step % run.log_every == 0 or state.step == run.steps):
                    speed = (state.step - timed_from) * run.batch / (time.perf_counter() - clock)
                    row = {name: term.item() for name, term in terms.items()}
                    log.write(state.step, row | {"loss": values[process], "lr": rate, "images_per_second": speed})
                    note = f"loss {values[process]:.3f}  lr {rate:.2g}  {speed:.1f} images/s"
                    show(bar, line, state.step, run.steps, note)
                    clock, timed_from = time.perf_counter(), state.step
                bar.update(line, completed=state.step)

                if evaluation_is_due(run, state.step):
                    pause = time.perf_counter()
                    evaluate_and_keep_best(task, run, state, log)
                    clock += time.perf_counter() - pause
                signalled = stop.agreed(accelerator)
                if state.step % run.save_every == 0 or state.step == run.steps or signalled:
                    state.save()
                if signalled and state.step < run.steps:
                    if is_main:
                        console.out(f"stopped after step {state.step}; go on with --resume")
                    return 128 + signalled
        except InputError:
            if state.step > first:
                state.save()
            raise
    if is_main:
        draw_curves(out / "log.csv", out / "curves.png")
    return 0


def total_loss(terms: dict[str, Tensor]) -> Tensor:
    """The sum of a loss's terms, all scalars."""
    return reduce(torch.add, terms.values())


def make_loader(config: AnyConfig, accelerator: Accelerator, task: Task, start: int) -> DataLoader:
    """Batches of this process's share of the samples, from step `start` to the last."""
    order = SampleOrder(
        len(task.train_set),
        config.run,
        start=start,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    return DataLoader(
        task.train_set,
        batch_sampler=order,
        num_workers=config.data.workers,
        collate_fn=task.collate,
        worker_init_fn=single_thread,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=4 if config.data.workers else None,
        timeout=300 if config.data.workers else 0,
    )


def compiled(run: Run, accelerator: Accelerator, model: nn.Module, loss: Loss) -> tuple[nn.Module, Loss]:
    """The model and the loss as a step calls them, with `run.compile` compiled as one."""
    if run.compile and accelerator.num_processes > 1:
        parallel: Any = torch.compile(model)
        return parallel, loss  # the gradients' exchange is no part of a graph
    if run.compile:
        return model, torch.compile(loss, dynamic=False)
    return model, loss


def stop_non_finite(
    accelerator: Accelerator, step: int, values: list[float], terms: dict[str, Tensor], rate: float
) -> int:
    """Says why the run ends; the weights are those before the step, and last.pt is untouched. All processes call it.

    Arguments:
        values: the loss of each process. terms: what this process's is made of.
    """
    parts = gather_parts(accelerator, {name: term.item() for name, term in terms.items()})
    if accelerator.is_main_process:
        culprit = next(process for process, value in enumerate(values) if not math.isfinite(value))
        where = f" in process {culprit}" if len(values) > 1 else ""
        found = ", ".join(f"{name} {value:g}" for name, value in parts[culprit].items())
        console.out(
            f"error: step {step + 1}: the loss is {values[culprit]}{where} ({found}) at learning rate {rate:g}; "
            "nothing was changed."
        )
        console.out("Lower optim.lr, set optim.clip=1, or use run.precision=no; then --resume or start again.")
    return NON_FINITE
