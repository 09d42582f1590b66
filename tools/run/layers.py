"""Which layers of a network learn when, and how fast: frozen ones, and the backbone's own learning rate."""

from typing import NamedTuple

from torch import nn

from backbone.errors import InputError
from tools.run.config import Optim, Run


class Layers(NamedTuple):
    """Parameters that learn at the same times and at the same rate."""

    parameters: list[nn.Parameter]
    factor: float  # of their learning rate, relative to the schedule's
    frozen_steps: int  # at the start of the run, in which they do not learn

    def factor_at(self, step: int, warmup: int) -> float:
        """The factor of a step; what was frozen warms up once more, linearly, from the step in which it thaws.

        An optimizer that has just begun with a layer has no average of its gradients yet: at the full rate its first
        steps would be the largest of the run.
        """
        if step < self.frozen_steps:
            return 0.0
        if self.frozen_steps and step < self.frozen_steps + warmup:
            return self.factor * (step - self.frozen_steps + 1) / warmup
        return self.factor


def frozen_modules(model: nn.Module, freeze: str | None) -> list[nn.Module]:
    """The modules that `run.freeze` names: "body", "stem", or the stem and the blocks up to one of a number.

    Arguments:
        model: has a `backbone`, a `Network`.
    Raises:
        InputError: the network has no block of this number.
    """
    if freeze is None:
        return []
    if freeze == "body":
        return [model.get_submodule("backbone")]
    stem = model.get_submodule("backbone.stem")
    if freeze == "stem":
        return [stem]
    blocks = dict(model.get_submodule("backbone.blocks").named_children())
    if freeze not in blocks:
        raise InputError(f"run.freeze is {freeze}, but the body that this model builds ends at block {len(blocks)}")
    return [stem, *(block for number, block in blocks.items() if int(number) <= int(freeze))]


def frozen_steps(run: Run) -> int:
    """The number of steps, from the first on, in which the layers of `run.freeze` do not learn."""
    if run.freeze is None:
        return 0
    return run.steps if run.freeze_steps is None else min(run.freeze_steps, run.steps)


def split_layers(model: nn.Module, frozen: list[nn.Module], optim: Optim, run: Run) -> list[Layers]:
    """The parameters of a model with a `backbone`, by when and how fast they learn, in the model's order."""
    assert optim.backbone_lr is not None  # `pretrained.settle` fills it in
    body = {id(parameter) for parameter in model.get_submodule("backbone").parameters()}
    still = {id(parameter) for module in frozen for parameter in module.parameters()}
    parts: dict[tuple[float, int], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        factor = optim.backbone_lr if id(parameter) in body else 1.0
        steps = frozen_steps(run) if id(parameter) in still else 0
        parts.setdefault((factor, steps), []).append(parameter)
    return [Layers(parameters, *key) for key, parameters in parts.items()]
