"""A published checkpoint with its tensors renamed to ours, and the functions that tables of names are made of."""

import re
from typing import NamedTuple

from torch import Tensor

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Layout(NamedTuple):
    """A published checkpoint in our names, without the prefix "backbone.", and how its network was built and fed."""

    name: str
    state: dict[str, Tensor]
    norm_eps: float | None  # None: the model's
    padding: str | None  # None: unknown
    mean: Triple  # input normalisation of the publisher's files, RGB in 0..1; others' trainings may differ
    std: Triple
    se_before_activation: bool | None = False  # as BlockPlan's; None: unknown


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors by their new names; a name without a translation stays, and a strict load reports it."""
    return {names.get(key, key): value for key, value in state.items()}


def highest(pattern: str, state: dict[str, Tensor]) -> int:
    """The highest number that the pattern's group matches in any name; 0 if none."""
    return max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=0)


def conv_norm(theirs: str, ours: str) -> dict[str, str]:
    """The names of a convolution `theirs.0` and its norm `theirs.1` -> those of our `ConvNormAct`."""
    return plain_conv_norm(theirs, 0, ours)


def plain_conv_norm(theirs: str, first: int, ours: str) -> dict[str, str]:
    """The names of a convolution `theirs.first` and the norm that follows it -> those of our `ConvNormAct`."""
    return named(f"{theirs}.{first}", f"{ours}.conv") | named(f"{theirs}.{first + 1}", f"{ours}.norm")


def linear(theirs: str, ours: str) -> dict[str, str]:
    """The names of a layer's weight and bias -> ours."""
    return {f"{theirs}.{value}": f"{ours}.{value}" for value in ("weight", "bias")}


def named(theirs: str, ours: str) -> dict[str, str]:
    """The names of all values that a convolution or a norm may have -> ours."""
    return {f"{theirs}.{value}": f"{ours}.{value}" for value in NORM}
