"""From a config to the end of its training, the same for all tasks."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from tools.io.console import console
from tools.run.config import Arguments, Config
from tools.run.evaluation import best_file
from tools.run.find_lr import find_lr
from tools.run.loop import train
from tools.run.order import check_batch
from tools.run.pretrained import settle, settled_before
from tools.run.processes import device_text, make_accelerator
from tools.run.schedule import for_batch
from tools.run.state import TrainingState, open_run
from tools.run.task import Task


def run_task(make_task: Callable[[Config, Accelerator], Task], arguments: Arguments[Config]) -> int:
    """Trains what `make_task` makes of the config, or finds its learning rate; returns the process's exit code.

    Raises:
        InputError: the run folder, the data or the weights do not fit the config.
    """
    saved = open_run(arguments.config, arguments.resume)
    if saved is None:
        config, notes = settle(arguments.config)
    else:
        config, notes = settled_before(arguments.config, saved["config"]), []
    run, optim = config.run, config.optim
    accelerator = make_accelerator(run.precision)
    check_batch(run, accelerator.num_processes)
    torch.manual_seed(run.seed)
    task = make_task(config, accelerator)
    lines = [
        f"{len(task.train_set)} training and {len(task.val_set)} validation images, {device_text(accelerator)}",
        *task.notes,
        *notes,
    ]
    if config.weights is not None and saved is None:
        lines.append(f"weights: {config.weights} ({task.load_weights(config.weights)})")
    rate = for_batch(optim, run.batch).lr
    if rate != optim.lr and not arguments.find_lr:
        given = f"{optim.lr:g} for a batch of {optim.lr_for_batch}"
        lines.append(f"learning rate {rate:g} for run.batch {run.batch}; given as {given}")
    if accelerator.is_main_process:
        for line in lines:
            console.out(line)
    state = TrainingState(config, accelerator, task.model)
    if arguments.find_lr:
        return find_lr(config, accelerator, task, state)
    if saved is not None:
        state.load_state_dict(saved)
    code = train(config, accelerator, task, state)
    if accelerator.is_main_process and code == 0:
        console.out(f"done: {best_file(run)}; curves in {Path(run.out) / 'curves.png'}")
        console.out(f"next: python -m {task.next_command} --weights {best_file(run)}")
    return code
