"""What changes from step to step: weights, their average, the optimizer; and how a run goes on from it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from backbone.errors import InputError
from tools.run import checkpoint
from tools.run.config import FREE_ON_RESUME, SETTLED, AnyConfig, flatten
from tools.run.disk import Disk
from tools.run.guard import Guard
from tools.run.layers import frozen_modules, frozen_steps, split_layers
from tools.run.loading import Damaged
from tools.run.norms import FirstStatistics
from tools.run.optimizer import make_average, make_optimizer, set_rates
from tools.run.schedule import for_batch, learning_rate


class TrainingState:
    """All that a run needs to go on, at the device and for the processes that there are.

    Arguments:
        model: the network with its initial weights; it is moved to the device.
        num_images: of the training set.

    Attributes:
        model: the network itself; parallel: the same as a step calls it, exchanging gradients between processes.
        first_statistics: sets the norms' momentum; None where a step is compiled.
        frozen: the modules that do not learn in the first `frozen_steps` steps.
        layers: the parameters by when and how fast they learn.
        average: the moving average of its weights, None without `optim.ema`.
        kept: the network whose weights are evaluated and kept: the average's if there is one.
        optimizer, scaler: the latter, of fp16's gradients, is None in other precisions.
        guard: makes the steps of optimizer and average, and counts those left out.
        damaged: the damaged images that were met.
        suspect: where the run ended because its next step's loss or gradient is not finite: the process that began it
            and how many there were.
        accumulate: in how many parts a process takes its share of a batch: `run.accumulate`, or more for `run.oom`.
        step: how many steps were made. evaluated: after which of them the last evaluation was.
        best: the best score so far. since_best: how many evaluations there were since.
        among_best: score and step of the evaluations whose weights are kept for `run.keep_best`, best first.
        teacher_hash: of the file of the teacher that the loss asks, None without one.
        newest_is_whole: whether the run's last.pt is a state that can be read, and so worth keeping as last-1.pt.
    """

    def __init__(self, config: AnyConfig, accelerator: Accelerator, model: nn.Module, num_images: int) -> None:
        run, optim = config.run, for_batch(config.optim, config.run.batch)
        self.config, self.is_main = config, accelerator.is_main_process
        self.warmup = optim.warmup
        if run.sync_norm and accelerator.num_processes > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        layout = torch.channels_last if run.channels_last else torch.preserve_format
        self.model = model.to(accelerator.device).to(memory_format=layout)
        self.frozen = frozen_modules(self.model, run.freeze)
        self.frozen_steps = frozen_steps(run)
        self.layers = split_layers(self.model, self.frozen, optim, run)
        # What never thaws needs no gradients, which saves their time. What thaws has them from the start and drops
        # them: processes agree when they begin, in `prepare`, which gradients they exchange.
        if self.frozen_steps == run.steps:
            for module in self.frozen:
                module.requires_grad_(False)
        # Copied before accelerate wraps `forward`, which would make the copy call the original.
        self.average = make_average(self.model) if optim.ema else None
        # A graph has the momentum as a constant: each other one would be compiled anew.
        self.first_statistics = None if run.compile else FirstStatistics(self.model)
        fp16 = accelerator.scaler is not None
        optimizer = make_optimizer([layers.parameters for layers in self.layers], optim, fp16=fp16)
        self.parallel, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.scaler = accelerator.scaler
        self.guard = Guard(accelerator, self.model, self.optimizer, self.average, optim.ema)
        self.kept = self.average.module if self.average is not None else self.model
        self.step, self.evaluated, self.best = 0, 0, -math.inf
        self.since_best = 0
        self.among_best: list[tuple[float, int]] = []
        self.teacher_hash: str | None = None
        self.newest_is_whole = False
        self.damaged = Damaged(num_images)
        self.accumulate = run.accumulate
        self.suspect: list[int] | None = None

    def prepare_step(self, step: int, rate: float) -> None:
        """Sets training mode and learning rates; what is frozen is in evaluation mode, so that its statistics stay.

        Arguments:
            rate: the schedule's, of this step.
        """
        set_rates(self.optimizer, [rate * layers.factor_at(step, self.warmup) for layers in self.layers])
        self.parallel.train()
        if self.first_statistics is not None:
            self.first_statistics.prepare_step(step)
        if step < self.frozen_steps:
            for module in self.frozen:
                module.eval()

    def drop_frozen_gradients(self, step: int) -> None:
        """Takes the gradients of what is frozen away, so that neither clipping nor the optimizer knows them."""
        if step < self.frozen_steps:
            for module in self.frozen:
                module.zero_grad()

    def share_statistics(self) -> None:
        """Gives every process the norm statistics that the main one keeps; each has seen other images."""
        if self.guard.accelerator.num_processes > 1:
            for buffer in self.kept.buffers():
                torch.distributed.broadcast(buffer, 0)

    def num_bytes_on_disk(self) -> int:
        """About what the run's files take: two states and one being written, the best weights and those kept."""
        weights = sum(value.nbytes for value in self.model.state_dict().values())
        of_optimizer = {"adamw": 2, "sgd": 1, "rmsprop": 2}[self.config.optim.name]
        state = weights * (1 + of_optimizer + (self.average is not None))
        return 3 * state + (2 + self.config.run.keep_best) * weights

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: tensors, numbers, text, lists and dicts."""
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "since_best": self.since_best,
            "among_best": [list(entry) for entry in self.among_best],
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "left_out": self.guard.counts.tolist(),
            "suspect": self.suspect,
            "accumulate": self.accumulate,
            "teacher_hash": self.teacher_hash,
            "damaged": list(self.damaged.faults),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave in a run of the same config.

        Raises:
            InputError: the run has had another teacher.
        """
        check_teacher(state.get("teacher_hash"), self.teacher_hash, self.config)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]
        self.since_best = state.get("since_best", 0)
        self.among_best = [(score, step) for score, step in state.get("among_best", ())]
        self.evaluated = state.get("evaluated", self.step)  # older files do not say
        self.guard.counts.copy_(torch.tensor(state.get("left_out", [0, 0, 0])))
        self.suspect = state.get("suspect")
        self.accumulate = state.get("accumulate", self.config.run.accumulate)
        self.damaged.faults = list(state.get("damaged", ()))

    def go_back(self, step: int) -> None:
        """Makes this the state before steps that changed nothing, from the step of number `step` on."""
        self.step, self.evaluated = step, min(self.evaluated, step)
        self.guard.counts[2] -= self.guard.counts[0]
        self.guard.counts[0] = 0

    def save(self, disk: Disk) -> None:
        """Writes `last.pt` and keeps the one before as `last-1.pt`, in the main process.

        Raises:
            InputError: it cannot be written for another reason than a full disk.
        """
        if self.is_main:
            path = Path(self.config.run.out) / checkpoint.LAST
            state = self.state_dict() | {"config": flatten(self.config)}
            keep = self.newest_is_whole
            if disk.write(path, lambda: checkpoint.save_state(path, state, keep_previous=keep)):
                self.newest_is_whole = True


def check_teacher(before: str | None, now: str | None, config: AnyConfig) -> None:
    """Refuses a run that goes on with another teacher than it had, by their files' hashes.

    Raises:
        InputError: the file has changed, or there is a teacher in only one of the two.
    """
    if before == now:
        return
    had, has = ("no teacher" if value is None else f"a teacher of SHA-256 {value[:12]}…" for value in (before, now))
    raise InputError(f"{config.run.out}: the run was made with {had}, now {has}; give the file that it began with")


class Opened(NamedTuple):
    """A run's folder, looked at before the run."""

    saved: checkpoint.Saved | None  # the state to go on from; None for a new run
    notes: list[str]  # what is to be said about it


def open_run(config: AnyConfig, *, resume: bool, extend: bool = False) -> Opened:
    """Looks for the state to go on from in the run's folder.

    Arguments:
        extend: a run may go on with more steps than it was started with.
    Raises:
        InputError: the folder holds a run already, there is nothing to resume, or the config has changed.
    """
    folder = Path(config.run.out)
    if not resume:
        if checkpoint.exists(folder):
            raise InputError(f"{folder}: holds a run already; add --resume to go on, or choose another run.out")
        return Opened(None, [])
    if not checkpoint.exists(folder) and (folder / "config.yaml").is_file():
        return Opened(None, [f"{folder}: the run ended before its first last.pt; it starts again from its first step"])
    saved = checkpoint.load_newest(folder)
    notes = []
    if saved.fault is not None:
        newest = folder / checkpoint.LAST
        notes.append(f"{newest}: {saved.fault}; going on from {saved.path} of step {saved.state['step']}")
    # A run that was started before a key existed had what is now the key's default.
    before = flatten(type(config)()) | saved.state["config"]
    for key, value in flatten(config).items():
        if key in FREE_ON_RESUME or (key in SETTLED and value is None) or before[key] == value:
            continue
        if key == "run.steps" and value > before[key]:
            if not extend:
                raise InputError(f"{saved.path}: {_longer(config, saved.state, before)}; add --extend to do so")
            notes.append(_longer(config, saved.state, before))
            continue
        change = f"{key}={before[key]}, now {value}"
        raise InputError(f"{saved.path}: was made with {change}; a resumed run keeps its config")
    return Opened(saved, notes)


def _longer(config: AnyConfig, state: dict[str, Any], before: dict[str, Any]) -> str:
    """What more steps change, in words."""
    steps, made = before["run.steps"], state["step"]
    lr = before["optim.lr"] if config.optim.lr is None else config.optim.lr
    optim = for_batch(replace(config.optim, lr=lr), config.run.batch)
    old, new = (learning_rate(optim, min(made, total - 1), total) for total in (steps, config.run.steps))
    when = f"the learning rate of step {made + 1}" if made < steps else "the learning rate that ended"
    return (
        f"was made with run.steps={steps}, now {config.run.steps}: the schedule is stretched, {when} at {old:.3g} goes "
        f"on at {new:.3g}"
    )
