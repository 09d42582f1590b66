"""What every loader of published weights refuses: a layout that it does not know, a model built unlike the weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from backbone.errors import InputError

Source = str | Path | Mapping[str, Tensor]
"""A weights file or a state dict."""


def source_name(source: Source) -> str:
    """What errors call a source."""
    return "state dict" if isinstance(source, Mapping) else str(source)


def unknown_layout(state: Iterable[str], *, source: str, known: str) -> InputError:
    """The error for a state dict whose names nobody knows; `known` lists the layouts that would do."""
    return InputError(f"{source}: unknown layout (first name {next(iter(state), None)!r}); known: {known}")


def require_settings(needed: Mapping[str, Any], built: Mapping[str, Any], *, layout: str, source: str) -> None:
    """Compares what weights were trained with to what a model was built with.

    Arguments:
        needed: keywords of `create` with the weights' values, None where these do not tell.
        built: the same keywords with the model's values.
        layout: whose weights they are.

    Raises:
        InputError: names the first keyword that differs, and both values.
    """
    for key, value in needed.items():
        if value is not None and value != built[key]:
            raise InputError(
                f"{source}: {layout}'s weights need {key}={value!r}, the model has {built[key]!r}; build it so, or use "
                "from_weights"
            )
