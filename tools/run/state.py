"""What changes from step to step: weights, their average, the optimizer; and how a run goes on from it."""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from backbone.errors import InputError
from tools.run import checkpoint
from tools.run.config import FREE_ON_RESUME, SETTLED, AnyConfig, flatten
from tools.run.layers import frozen_modules, frozen_steps, split_layers
from tools.run.optimizer import make_average, make_optimizer, set_rates
from tools.run.schedule import for_batch


class TrainingState:
    """All that a run needs to go on, at the device and for the processes that there are.

    Arguments:
        model: the network with its initial weights; it is moved to the device.

    Attributes:
        model: the network itself; parallel: the same as a step calls it, exchanging gradients between processes.
        frozen: the modules that do not learn in the first `frozen_steps` steps.
        layers: the parameters by when and how fast they learn.
        average: the moving average of its weights, None without `optim.ema`.
        kept: the network whose weights are evaluated and kept: the average's if there is one.
        optimizer, scaler: the latter, of fp16's gradients, is None in other precisions.
        step: how many steps were made. evaluated: after which of them the last evaluation was.
        best: the best score so far.
    """

    def __init__(self, config: AnyConfig, accelerator: Accelerator, model: nn.Module) -> None:
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
        self.average = make_average(self.model, optim.ema) if optim.ema else None
        optimizer = make_optimizer([layers.parameters for layers in self.layers], optim)
        self.parallel, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.scaler = accelerator.scaler
        self.kept = self.average.module if self.average is not None else self.model
        self.step, self.evaluated, self.best = 0, 0, -math.inf

    def prepare_step(self, step: int, rate: float) -> None:
        """Sets training mode and learning rates; what is frozen is in evaluation mode, so that its statistics stay.

        Arguments:
            rate: the schedule's, of this step.
        """
        set_rates(self.optimizer, [rate * layers.factor_at(step, self.warmup) for layers in self.layers])
        self.parallel.train()
        if step < self.frozen_steps:
            for module in self.frozen:
                module.eval()

    def drop_frozen_gradients(self, step: int) -> None:
        """Takes the gradients of what is frozen away, so that neither clipping nor the optimizer knows them."""
        if step < self.frozen_steps:
            for module in self.frozen:
                module.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: tensors, numbers, text, lists and dicts."""
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave in a run of the same config."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]
        self.evaluated = state.get("evaluated", self.step)  # older files do not say

    def save(self) -> None:
        """Writes `last.pt`, in the main process.

        Raises:
            InputError: it cannot be written; the old file is untouched.
        """
        if self.is_main:
            state = self.state_dict() | {"config": flatten(self.config)}
            checkpoint.save_state(Path(self.config.run.out) / "last.pt", state)


def open_run(config: AnyConfig, resume: bool) -> dict[str, Any] | None:
    """Checks the run folder and returns the state to go on from, or None for a new run.

    Raises:
        InputError: the folder holds a run already, there is nothing to resume, or the config has changed.
    """
    last = Path(config.run.out) / "last.pt"
    if not resume:
        if last.exists():
            raise InputError(f"{last.parent}: holds a run already; add --resume to go on, or choose another run.out")
        return None
    state = checkpoint.load_state(last)
    # A run that was started before a key existed had what is now the key's default.
    before = flatten(type(config)()) | state["config"]
    for key, value in flatten(config).items():
        if key in FREE_ON_RESUME or (key in SETTLED and value is None):
            continue
        if before[key] != value:
            raise InputError(f"{last}: was made with {key}={before[key]}, now {value}; a resumed run keeps its config")
    return state
