"""From a config to the end of its training, the same for all tasks."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from backbone.errors import InputError
from tools.doctoring.checks import OK, check_disk, check_threads
from tools.io.console import console
from tools.run import checkpoint
from tools.run.config import Arguments, Config
from tools.run.dry_run import dry, dry_run
from tools.run.evaluation import best_file
from tools.run.find_lr import find_lr
from tools.run.loading import shared_memory_warning
from tools.run.lock import lock_folder
from tools.run.loop import train
from tools.run.order import check_batch
from tools.run.pretrained import settle, settled_before
from tools.run.processes import device_text, gather_parts, make_accelerator
from tools.run.replay import replay
from tools.run.schedule import for_batch
from tools.run.state import Opened, TrainingState, open_run
from tools.run.task import Task
from tools.run.trackers import require_trackers


def run_task(make_task: Callable[[Config, Accelerator], Task], arguments: Arguments[Config]) -> int:
    """Trains what `make_task` makes of the config, or finds its learning rate; returns the process's exit code.

    Raises:
        InputError: the run folder, the data or the weights do not fit the config, or another run is in the folder.
    """
    require_trackers(arguments.config.run.trackers)
    accelerator = make_accelerator(arguments.config.run.precision)
    if arguments.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            config = dry(arguments.config, folder)
            return _run_opened(make_task, arguments._replace(config=config), accelerator, Opened(None, []))
    out = Path(arguments.config.run.out)
    goes_on = arguments.resume or arguments.replay or is_restarted(out, accelerator)
    if goes_on and not out.is_dir():
        raise InputError(f"{out}: nothing to resume; start the run without --resume")
    with lock_folder(out, is_main=int(os.environ.get("RANK", "0")) == 0):
        opened = open_run(arguments.config, resume=goes_on, extend=arguments.extend)
        return _run_opened(make_task, arguments, accelerator, opened)


def is_restarted(out: Path, accelerator: Accelerator) -> bool:
    """Whether torchrun started this again after a process had died (--max-restarts), and the run had begun before.

    A host's processes that are started again because one of another host has died may count no restart of their own.
    """
    restarts = gather_parts(accelerator, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
    return max(restarts) > 0 and (checkpoint.exists(out) or (out / "config.yaml").is_file())


def _run_opened(
    make_task: Callable[[Config, Accelerator], Task],
    arguments: Arguments[Config],
    accelerator: Accelerator,
    opened: Opened,
) -> int:
    """The run itself, in a folder that is this run's alone."""
    saved, notes = None if opened.saved is None else opened.saved.state, list(opened.notes)
    if saved is None:
        config, settled = settle(arguments.config)
        notes += settled
    else:
        config = settled_before(arguments.config, saved["config"])
    run, optim = config.run, config.optim
    check_batch(run, accelerator.num_processes)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
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
    if (warning := shared_memory_warning(config, task, accelerator.num_processes)) is not None:
        lines.append(warning)
    if accelerator.is_main_process:
        for line in lines:
            console.out(line)
    state = TrainingState(config, accelerator, task.model, len(task.train_set))
    state.teacher_hash = None if task.teacher is None else task.teacher.hash
    if accelerator.is_main_process:
        for finding in [*check_disk(Path(run.out), state.num_bytes_on_disk()), *check_threads()]:
            if finding.level != OK:
                console.out(f"warning: {finding.text}; {finding.cure}")
    if arguments.dry_run:
        return dry_run(config, accelerator, task, state)
    if arguments.find_lr:
        return find_lr(config, accelerator, task, state)
    if opened.saved is not None:
        state.load_state_dict(opened.saved.state)
        state.newest_is_whole = opened.saved.fault is None
    if arguments.replay:
        return replay(config, accelerator, task, state)
    code = train(config, accelerator, task, state)
    if accelerator.is_main_process and code == 0:
        console.out(f"done: {best_file(run)}; curves in {Path(run.out) / 'curves.png'}")
        console.out(f"next: python -m {task.next_command} --weights {best_file(run)}")
    return code
