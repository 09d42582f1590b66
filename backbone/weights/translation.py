"""What a published checkpoint is in our names, and the parts that the tables of names are made of."""

import re
from typing import NamedTuple

from torch import Tensor

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Layout(NamedTuple):
    """A published checkpoint in our names, without the prefix "backbone.", and what it presumes."""

    name: str
    state: dict[str, Tensor]
    norm_eps: float | None  # None: as the model's
    padding: str | None  # None: the weights do not tell
    mean: Triple  # of the usual published file, RGB in 0..1; retrainings differ
    std: Triple
    se_before_activation: bool | None = False  # as BlockPlan's; None: the weights do not tell


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Names that have no translation stay; a strict load then reports them."""
    return {names.get(key, key): value for key, value in state.items()}


def highest(pattern: str, state: dict[str, Tensor]) -> int:
    """The highest number that a name has at the pattern's group; 0 if none."""
    return max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=0)


def conv_norm(theirs: str, ours: str) -> dict[str, str]:
    return plain_conv_norm(theirs, 0, ours)


def plain_conv_norm(theirs: str, first: int, ours: str) -> dict[str, str]:
    """A convolution at `theirs.first` and its norm behind it."""
    return named(f"{theirs}.{first}", f"{ours}.conv") | named(f"{theirs}.{first + 1}", f"{ours}.norm")


def linear(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{value}": f"{ours}.{value}" for value in ("weight", "bias")}


def named(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{value}": f"{ours}.{value}" for value in NORM}
