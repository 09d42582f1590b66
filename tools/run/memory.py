"""What a run does when a GPU's memory runs out in a step: it ends in one line, or takes the batch in smaller parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backbone.errors import InputError
from tools.io.console import console
from tools.run.config import Run
from tools.run.loading import Loaded
from tools.run.state import TrainingState

AddGradients = Callable[[Run, list[Loaded]], dict[str, Tensor]]


def add_gradients_that_fit(
    run: Run, state: TrainingState, parts: list[Loaded], add_gradients: AddGradients
) -> dict[str, Tensor]:
    """Adds up a step's gradients; with `run.oom=reduce`, in parts that are halved as often as memory runs out.

    The parts hold the images that `run.accumulate` would have given them, and so draw the same random numbers: the
    step is that of a run with twice, four times, … the `run.accumulate`, and all steps to come are.

    Arguments:
        parts: the step's batch in `run.accumulate` parts.
        add_gradients: of the batch in the parts of a `Run`.
    Raises:
        InputError: memory ran out, and the parts may not or cannot be halved; the step has changed nothing.
    """
    while True:
        halved = split(parts, state.accumulate // run.accumulate)
        try:
            return add_gradients(replace(run, accumulate=state.accumulate), halved)
        except torch.OutOfMemoryError as error:
            text = str(error).splitlines()[0]
        # Only here is the error gone, whose traceback keeps what the step had in memory.
        state.guard.take_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        sizes = _sizes(tuple(part.batch for part in halved))
        where = f"step {state.step + 1}: out of memory with {max(sizes)} images at a time"
        if run.oom == "error":
            cure = f"run.accumulate={2 * run.accumulate} halves them and keeps the batch, run.oom=reduce does so itself"
            raise InputError(f"{where} ({text}); {cure}")
        if any(size % 2 or size < 4 for size in sizes):  # batch norm needs two images
            raise InputError(f"{where}, which cannot be halved; make the images smaller")
        state.accumulate *= 2
        console.out(f"warning: {where}; going on as with run.accumulate={state.accumulate}")


def split(parts: list[Loaded], count: int) -> list[Loaded]:
    """Each part in `count` of its own, in the order that `SampleOrder` has for so many times the parts."""
    if count == 1:
        return parts
    return [
        Loaded(_every(part.batch, first, count), part.faults if first == 0 else [])
        for first in range(count)
        for part in parts
    ]


def _every(batch: Any, first: int, step: int) -> Any:
    """Every so-many-th sample of a (nested) NamedTuple of tensors, in which a part may be None."""
    if batch is None:
        return None
    if isinstance(batch, Tensor):
        return batch[first::step]
    return type(batch)(*(_every(part, first, step) for part in batch))


def _sizes(batch: Any) -> set[int]:
    """How many samples the tensors of a (nested) tuple have; each head of a joint network has a batch of its own."""
    if isinstance(batch, Tensor):
        return {len(batch)}
    return set().union(*map(_sizes, batch)) if isinstance(batch, tuple) else set()
