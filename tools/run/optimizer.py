"""The optimizer of a run and the average of its weights."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tools.run.config import Optim


def make_optimizer(parts: Sequence[Iterable[nn.Parameter]], optim: Optim) -> torch.optim.Optimizer:
    """The optimizer, with weight decay on weights of convolutions and linear layers only.

    Arguments:
        parts: parameters that have a learning rate in common; each part becomes two groups, with and without decay.
    """
    assert optim.lr is not None  # `pretrained.settle` fills it in
    groups: list[dict[str, Any]] = []
    for parameters in map(list, parts):
        decayed, others = ([p for p in parameters if (p.ndim > 1) is matrix] for matrix in (True, False))
        groups += [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # On a CPU one fused pass saves 20 ms of each AdamW step. On a GPU it would hide skipped steps from accelerate.
    fused = all(p.device.type == "cpu" for group in groups for p in group["params"])
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)
    if optim.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=optim.lr, momentum=optim.momentum, alpha=optim.alpha, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=optim.lr, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """The learning rate of the next step, of each of the parts that `make_optimizer` got."""
    for group, rate in zip(optimizer.param_groups, (rate for rate in rates for _ in range(2)), strict=True):
        group["lr"] = rate


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and norm statistics; its decay rises to `decay` over the first steps."""

    def update(averages: Any, currents: Any, num_averaged: Tensor | int) -> None:
        count = int(num_averaged)
        weight = 1 - min(decay, (1 + count) / (10 + count))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, weight)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(averages, currents)  # pyright: ignore[reportPrivateImportUsage]

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
