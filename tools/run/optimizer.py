"""The optimizer of a run and the average of its weights."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tools.run.config import Optim


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The optimizer, with weight decay on weights of convolutions and linear layers only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # On a CPU one fused pass saves 20 ms of each AdamW step. On a GPU it would hide skipped steps from accelerate.
    fused = all(p.device.type == "cpu" for p in decayed)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)
    if optim.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=optim.lr, momentum=optim.momentum, alpha=optim.alpha, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=optim.lr, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
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
