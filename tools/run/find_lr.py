"""A learning-rate range test: the rate rises step by step until the loss explodes (arXiv 1506.01186, section 3.3)."""

import math
from contextlib import ExitStack, closing
from pathlib import Path

from accelerate import Accelerator

from tools.io.console import console, progress
from tools.run.config import AnyConfig, Optim
from tools.run.curves import draw_lr_range
from tools.run.disk import Disk
from tools.run.guard import NON_FINITE
from tools.run.loading import batches, make_loader, told_in_one_line
from tools.run.log import Log, show
from tools.run.loop import add_gradients, compiled, say_non_finite, total_loss
from tools.run.processes import gather_values
from tools.run.signals import StopSignal
from tools.run.state import TrainingState
from tools.run.task import Task

EXPLODED = 4
"""The test ends when the loss is so many times the lowest one."""


def range_rate(optim: Optim, step: int, steps: int) -> float:
    """The rate of step 0..steps-1, which rises from min_lr to lr by the same factor in each step."""
    assert optim.lr is not None  # `parse_arguments` checks it
    return optim.min_lr * (optim.lr / optim.min_lr) ** (step / max(1, steps - 1))


def find_lr(config: AnyConfig, accelerator: Accelerator, task: Task, state: TrainingState) -> int:
    """Trains with a rising rate and writes the losses as `lr_range.csv` and `lr_range.png` into `config.run.out`.

    Returns:
        The process's exit code: 0, `NON_FINITE` if the first loss already is, or 128 and the signal that ended it.
    Raises:
        InputError: an image is damaged, or the folder cannot be written.
    """
    run, optim = config.run, config.optim
    out, is_main = Path(run.out), accelerator.is_main_process
    model, loss = compiled(run, accelerator, state.parallel, task.loss)
    lowest, disk = math.inf, Disk()
    with ExitStack() as stack:
        stack.enter_context(told_in_one_line(config.data.workers))
        stop = stack.enter_context(StopSignal())
        bar = stack.enter_context(progress("{task.fields[note]}"))
        log = stack.enter_context(closing(Log(out, config, 0, disk))) if is_main else None
        line = bar.add_task("range test", total=run.steps, note="", visible=is_main)
        loaded = stack.enter_context(closing(batches(make_loader(config, accelerator, task, 0), run.accumulate)))
        for step, parts in enumerate(loaded):
            state.step = step
            rate = range_rate(optim, step, run.steps)
            if task.before_step is not None:
                task.before_step(step)
            state.prepare_step(step, rate)
            terms = add_gradients(run, accelerator, state, model, loss, parts)
            values = gather_values(accelerator, total_loss(terms))
            value = sum(values) / len(values)
            if step and not value < EXPLODED * lowest:  # nor is NaN
                break
            if not math.isfinite(value):
                say_non_finite(accelerator, step + 1, terms, rate)
                return NON_FINITE
            lowest = min(lowest, value)
            state.drop_frozen_gradients(step)
            if optim.clip:
                accelerator.clip_grad_norm_(state.parallel.parameters(), optim.clip)
            state.optimizer.step()
            state.optimizer.zero_grad()
            if log is not None:
                log.write(step + 1, {"loss": value, "lr": rate})
                show(bar, line, step + 1, run.steps, f"loss {value:.3f}  lr {rate:.2g}")
            bar.update(line, completed=step + 1)
            if signalled := stop.agreed(accelerator):
                return 128 + signalled
    if is_main:
        rate = draw_lr_range(out / "log.csv", out / "lr_range.csv", out / "lr_range.png")
        if optim.lr_for_batch is not None:  # a training scales what it is given
            rate *= optim.lr_for_batch / run.batch
        console.out(f"the loss falls fastest at optim.lr={rate:.2g}; see {out / 'lr_range.png'}")
    return 0
