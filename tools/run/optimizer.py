"""The optimizer of a run and the average of its weights."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tools.run.config import Optim


def make_optimizer(
    parts: Sequence[Iterable[nn.Parameter]], optim: Optim, *, fp16: bool = False
) -> torch.optim.Optimizer:
    """The optimizer, with weight decay on weights of convolutions and linear layers only.

    Arguments:
        parts: parameters that have a learning rate in common; each part becomes two groups, with and without decay.
        fp16: the gradients are fp16's, which have a scaler.
    """
    assert optim.lr is not None  # `pretrained.settle` fills it in
    groups: list[dict[str, Any]] = []
    for parameters in map(list, parts):
        decayed, others = ([p for p in parameters if (p.ndim > 1) is matrix] for matrix in (True, False))
        groups += [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # On a CPU one fused pass saves 20 ms of each AdamW step. On a GPU its step counters are on the device, where
    # `Guard` takes steps back. With fp16's scaler it would hide from accelerate which steps were left out.
    kinds = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = kinds <= {"cpu", "cuda"} and not fp16
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)
    if optim.name == "rmsprop":
        return torch.optim.RMSprop(
            groups,
            lr=optim.lr,
            momentum=optim.momentum,
            alpha=optim.alpha,
            eps=optim.eps,
            capturable=kinds == {"cuda"},  # keeps its step counters on the device, as above
        )
    return torch.optim.AdamW(groups, lr=optim.lr, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """The learning rate of the next step, of each of the parts that `make_optimizer` got."""
    for group, rate in zip(optimizer.param_groups, (rate for rate in rates for _ in range(2)), strict=True):
        group["lr"] = rate


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and norm statistics; its decay rises to `decay` over the first steps."""

    def update(averages: Any, currents: Any, num_averaged: Tensor | int) -> None:
        weight = average_weight(int(num_averaged), decay)
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, weight)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_copy_(averages, currents)  # pyright: ignore[reportPrivateImportUsage]

    return AveragedModel(model, device=next(model.parameters()).device, multi_avg_fn=update, use_buffers=True)


def average_weight(num_averaged: Any, decay: float) -> Any:
    """The weight of the newest model in an average of so many before it, both a number or both a tensor."""
    if isinstance(num_averaged, Tensor):
        ramp = (1 + num_averaged) / (10 + num_averaged)
        return torch.where(num_averaged == 0, 1.0, 1 - ramp.clamp(max=decay))
    return 1 - min(decay, (1 + num_averaged) / (10 + num_averaged))


def blend(average: AveragedModel, model: nn.Module, weight: Tensor) -> None:
    """Moves an average towards a model by a share that only the device knows; whole numbers become the model's.

    Arguments:
        weight: scalar; 0 leaves the average as it is.
    """
    pairs = zip(average.module.state_dict().values(), model.state_dict().values(), strict=True)
    floats, others = [], []
    for pair in pairs:
        (floats if pair[0].is_floating_point() else others).append(pair)
    averages, currents = zip(*floats, strict=True)
    difference = torch._foreach_sub(currents, averages)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_mul_(difference, weight)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(averages, difference)  # pyright: ignore[reportPrivateImportUsage]
    for kept, current in others:
        kept.copy_(current)
