"""The average of several weights files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from backbone.errors import InputError
from tools.io.model_file import load_description, load_tensors, save_tensors

OF_ONE_EVALUATION = ("step", "metrics")
"""Keys of a description that an average of several files does not have."""


def average_files(paths: Sequence[Path], out: Path) -> None:
    """Writes the mean of weights and norm statistics, computed in float64; whole numbers are the last file's.

    Raises:
        InputError: a file cannot be read, or is of another model than the first; `out` cannot be written.
    """
    wanted: dict[str, object] = {}
    sums: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}
    for path in paths:
        description = {key: value for key, value in load_description(path).items() if key not in OF_ONE_EVALUATION}
        wanted = wanted or description
        for key in wanted | description:
            if description.get(key) != wanted.get(key):
                raise InputError(f"{path}: its {key} is not that of {paths[0]}; average checkpoints of one run")
        last = load_tensors(path)
        if sums and {name: value.shape for name, value in last.items()} != {n: v.shape for n, v in sums.items()}:
            raise InputError(f"{path}: has other tensors than {paths[0]}; average checkpoints of one run")
        for name, value in last.items():
            sums[name] = sums[name] + value.double() if name in sums else value.double()
    means = {
        name: (sums[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for name, value in last.items()
    }
    if not all(bool(torch.isfinite(mean).all()) for mean in means.values()):
        raise InputError(f"{paths[0]}: the average is not finite; one of the files holds NaN or infinity")

    save_tensors(out, means, wanted | {"average_of": [path.name for path in paths]})
