"""One step run again, to find the tensor that is first not finite."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from tools.io.console import console
from tools.run.config import AnyConfig
from tools.run.guard import NON_FINITE
from tools.run.loading import Substituting
from tools.run.loop import names_of_step, total_loss
from tools.run.order import seed_step
from tools.run.processes import to_device
from tools.run.schedule import for_batch, learning_rate
from tools.run.state import TrainingState
from tools.run.task import Task, sample_order


class Findings:
    """What was looked at, in order, and the first tensor with a value that is not finite."""

    def __init__(self) -> None:
        self.first: str | None = None
        self.largest = ("nothing", 0.0)  # the tensor with the largest finite value before that, and this value

    def look(self, what: str, value: Any) -> None:
        """Looks at a tensor, or at the tensors in a tuple, list or dict."""
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, tuple | list):
            for part in value:
                self.look(what, part)
            return
        if self.first is not None or not isinstance(value, Tensor) or not value.is_floating_point():
            return
        wrong = value.numel() - int(value.isfinite().sum())
        if wrong:
            nans = int(value.isnan().sum())
            self.first = (
                f"{what} {list(value.shape)}: {wrong} of {value.numel()} values are not finite ({nans} NaN, "
                f"{wrong - nans} infinite)"
            )
        elif value.numel() and (largest := float(value.detach().abs().max())) > self.largest[1]:
            self.largest = (what, largest)


def replay(config: AnyConfig, accelerator: Accelerator, task: Task, state: TrainingState) -> int:
    """Runs the step after `state` again, forward and backward, and prints what is first not finite; changes no file.

    Returns:
        The exit code: `NON_FINITE` if something is not finite, else 0.
    Raises:
        InputError: an image is damaged.
    """
    config = replace(config, run=replace(config.run, accumulate=state.accumulate))
    run, step = config.run, min(state.step, config.run.steps - 1)
    process, num_processes = state.suspect or (0, 1)
    order = sample_order(task.train_set, run, start=step, process=process, num_processes=num_processes)
    samples = Substituting(task.train_set, run.seed, skip=config.data.damaged == "skip")
    console.out(f"step {step + 1}: {', '.join(names_of_step(config, task, step, process, num_processes))}")
    if task.before_step is not None:
        task.before_step(step)
    state.prepare_step(step, learning_rate(for_batch(config.optim, run.batch), step, run.steps))
    found = Findings()
    for name, value in state.model.state_dict().items():
        found.look(f"weight {name}", value)
    for part, keys in enumerate(islice(order, run.accumulate)):
        batch = to_device(task.collate([samples[key][0] for key in keys]), accelerator.device)
        seed_step(run, step, process, part)
        with watched(state.model, found):
            terms = task.loss(state.model, batch)
            for name, term in terms.items():
                found.look(name, term)
            total_loss(terms).backward()
        console.out(", ".join(f"{name} {term.item():g}" for name, term in terms.items()))
    for name, parameter in state.model.named_parameters():
        found.look(f"gradient of {name}", parameter.grad)
    what, value = found.largest
    console.out(f"first not finite: {found.first or 'nothing'}")
    console.out(f"largest value{' before' if found.first else ''}: {value:.3g} in {what}")
    return NON_FINITE if found.first else 0


@contextmanager
def watched(model: nn.Module, found: Findings) -> Iterator[None]:
    """Looks at what every module without parts gets and gives, and at the gradients of what it gives."""

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            found.look(f"input of {name}", inputs)
            found.look(f"output of {name}", output)
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(lambda gradient: found.look(f"gradient of the output of {name}", gradient))

        return look

    parts = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
