"""The learning rate as a function of the step."""

import dataclasses
import math

from tools.run.config import Optim

LONGEST_WARMUP = 0.25
"""Share of a run's steps that are warm-up at most: a short run would else end before its rate ever falls."""


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """The rate of step 0..steps-1: linear warm-up, then what `optim.schedule` names.

    poly and cosine fall from lr and would reach min_lr at `steps`; step multiplies lr by gamma every step_every steps;
    triangular2 goes up to lr and back in 2 * half_cycle steps, half as high in each cycle (arXiv 1506.01186).
    """
    assert optim.lr is not None  # `pretrained.settle` fills it in
    warmup = min(optim.warmup, int(LONGEST_WARMUP * steps))
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    since = step - warmup
    share = since / max(1, steps - warmup)
    span = optim.lr - optim.min_lr
    if optim.schedule == "poly":
        return optim.min_lr + span * (1 - share) ** optim.power
    if optim.schedule == "cosine":
        return optim.min_lr + span * 0.5 * (1 + math.cos(math.pi * share))
    if optim.schedule == "step":
        return optim.lr * optim.gamma ** (since // optim.step_every)
    cycle, position = divmod(since, 2 * optim.half_cycle)
    height = 1 - abs(position / optim.half_cycle - 1)
    return optim.min_lr + span * height / 2**cycle


def for_batch(optim: Optim, batch: int) -> Optim:
    """The settings with `lr` in proportion to this batch, where `lr_for_batch` says for which one it is meant."""
    if optim.lr_for_batch is None:
        return optim
    assert optim.lr is not None
    return dataclasses.replace(optim, lr=optim.lr * batch / optim.lr_for_batch)
