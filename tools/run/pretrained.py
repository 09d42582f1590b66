"""What weights need follows them into an experiment: the padding of the network, and the normalisation of its inputs.

A key that is given goes before the weights, and what contradicts them is said; where neither decides, the architecture
does for the padding, and the task for the normalisation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import backbone as backbones
from backbone.weights.loading import expected_padding, expected_preprocessing
from backbone.weights.preprocessing import Preprocessing
from tools.io.model_file import PUBLISHED_HEADS
from tools.run.config import BackboneConfig, DetConfig, SegConfig

Config = TypeVar("Config", SegConfig, DetConfig, BackboneConfig)


class Expected(NamedTuple):
    """What weights were trained with."""

    padding: str | None  # None: they do not tell
    mean: list[float]  # RGB in 0..1
    std: list[float]


class Settled(NamedTuple):
    """A config without open questions."""

    config: Any  # of the class that was given
    notes: list[str]  # what was settled and what contradicts the weights, to be printed


def settle(
    config: Config,
    *,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    whole: Callable[[str], Any] | None = None,
) -> Settled:
    """Fills in `model.padding`, `mean` and `std` where they are null.

    Arguments:
        mean, std: the task's, where there are no weights; by default ImageNet's. RGB in 0..1.
        whole: `seg.from_weights` or `det.from_weights`, for published models of the whole task.
    Raises:
        InputError: the weights cannot be fetched or read, or are of no known layout.
    """
    name = config.model.name if isinstance(config, BackboneConfig) else config.model.backbone
    architectures = backbones.architecture(name).padding
    tasks = Preprocessing()
    found = Expected(None, mean or list(tasks.mean), std or list(tasks.std))
    if config.weights is not None:
        found = expected(config.weights, whole)
    given = {"model.padding": config.model.padding, "mean": config.mean, "std": config.std}
    wanted = {"model.padding": found.padding, "mean": found.mean, "std": found.std}
    notes = []
    if config.weights is not None:
        taken = [f"{key} {_text(wanted[key])}" for key, value in given.items() if value is None and wanted[key]]
        if taken:
            notes.append(f"as {config.weights} expects: {', '.join(taken)}")
        notes += [
            f"{key} is {_text(value)}, {config.weights} expects {_text(wanted[key])}"
            for key, value in given.items()
            if value is not None and wanted[key] is not None and _text(value) != _text(wanted[key])
        ]
    settled = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, padding=config.model.padding or found.padding or architectures),
        mean=config.mean or found.mean,
        std=config.std or found.std,
    )
    return Settled(settled, notes)


def expected(weights: str, whole: Callable[[str], Any] | None) -> Expected:
    """What a weights file, or a name of published weights, was trained with.

    Raises:
        InputError: it cannot be fetched or read, or is of no known layout.
    """
    if whole is not None and any(name.startswith(PUBLISHED_HEADS) for name in backbones.read_weights(weights)):
        found = whole(weights)
        return Expected(found.arguments.get("padding", "symmetric"), list(found.mean), list(found.std))
    images = expected_preprocessing(weights)
    return Expected(expected_padding(weights), list(images.mean), list(images.std))


def _text(value: str | list[float]) -> str:
    return value if isinstance(value, str) else " ".join(f"{number:.3g}" for number in value)
