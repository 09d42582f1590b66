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


def make_average(model: nn.Module) -> AveragedModel:
    """An average of weights and norm statistics that begins as the model; `Pairs` moves it."""
    return AveragedModel(model, device=next(model.parameters()).device, use_buffers=True)


def average_weight(num_averaged: Any, decay: float) -> Any:
    """The weight of the newest model in an average of so many before it, both a number or both a tensor."""
    if isinstance(num_averaged, Tensor):
        ramp = (1 + num_averaged) / (10 + num_averaged)
        return torch.where(num_averaged == 0, 1.0, 1 - ramp.clamp(max=decay))
    return 1 - min(decay, (1 + num_averaged) / (10 + num_averaged))


class Pairs:
    """The tensors of an average beside those of its model.

    They are collected once: `AveragedModel.update_parameters` looks for them in each step, which takes a small network
    5 ms where the average itself takes 0.7.
    """

    def __init__(self, average: AveragedModel, model: nn.Module) -> None:
        pairs = list(zip(average.module.state_dict().values(), model.state_dict().values(), strict=True))
        self.count = average.n_averaged
        self.averages, self.currents = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        self.kept, self.newest = _columns([pair for pair in pairs if not pair[0].is_floating_point()])

    def update(self, decay: float) -> None:
        """Moves the average, an exponential moving one whose decay rises to `decay` over the first steps."""
        number = int(self.count)
        weight = average_weight(number, decay) if number else 1.0
        torch._foreach_lerp_(self.averages, self.currents, weight)  # pyright: ignore[reportPrivateImportUsage]
        self._copy_whole_numbers()
        self.count += 1

    def blend(self, weight: Tensor) -> None:
        """Moves the average by a share that only the device knows, a scalar; 0 leaves it as it is."""
        difference = torch._foreach_sub(self.currents, self.averages)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(difference, weight)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(self.averages, difference)  # pyright: ignore[reportPrivateImportUsage]
        self._copy_whole_numbers()

    def _copy_whole_numbers(self) -> None:
        if self.kept:
            torch._foreach_copy_(self.kept, self.newest)  # pyright: ignore[reportPrivateImportUsage]


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [one for one, _ in pairs], [other for _, other in pairs]
