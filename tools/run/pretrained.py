"""What a start from weights asks of an experiment: padding, normalisation of inputs, and learning rates that suit it.

Padding and normalisation follow the weights without being asked for; a key that is given goes before them, and what
contradicts the weights is said. Where there are none, the architecture decides on the padding and the task on the
normalisation. The norms' epsilon is no key of segmenters and detectors: loading scales their norms so that they compute
what they did with the epsilon that the weights were trained with.
"""

import dataclasses
from typing import Any, NamedTuple

import backbone as backbones
import det
import seg
from backbone.weights.loading import expected_padding, expected_preprocessing
from backbone.weights.preprocessing import Preprocessing
from backbone.weights.translation import INCEPTION
from tools.io.model_file import PUBLISHED_HEADS
from tools.joint.weights import initial_files, joint_tail
from tools.run.config import LR, LR_FROM_WEIGHTS, AnyConfig, BackboneConfig, Config, DetConfig, JointConfig, SegConfig


class Expected(NamedTuple):
    """What weights were trained with."""

    padding: str | None  # None: they do not tell
    mean: list[float]  # RGB in 0..1
    std: list[float]


class Settled(NamedTuple):
    """A config without open questions."""

    config: Any  # of the class that was given
    notes: list[str]  # what was settled and what contradicts the weights, to be printed


def settle(config: Config) -> Settled:
    """Fills in the keys of `config.SETTLED` where they are null.

    Raises:
        InputError: the weights cannot be fetched or read, or are of no known layout.
    """
    found, notes = Expected(None, *task_normalisation(config)), []
    if config.weights is not None:
        found = expected(config)
        given = {"model.padding": config.model.padding, "mean": config.mean, "std": config.std}
        wanted = {"model.padding": found.padding, "mean": found.mean, "std": found.std}
        taken = [f"{key} {_text(wanted[key])}" for key, value in given.items() if value is None and wanted[key]]
        if taken:
            notes.append(f"as {config.weights} expects: {', '.join(taken)}")
        notes += [
            f"{key} is {_text(value)}, {config.weights} expects {_text(wanted[key])}"
            for key, value in given.items()
            if value is not None and wanted[key] is not None and _text(value) != _text(wanted[key])
        ]
        if config.optim.lr is None:
            notes.append(f"learning rate {LR_FROM_WEIGHTS:g}, the default with weights; optim.lr sets another")
    tail = joint_tail(config.weights) if isinstance(config, JointConfig) and config.weights is not None else None
    values = {
        "model.tail": tail,
        "model.padding": found.padding or backbones.architecture(_architecture(config)).padding,
        "mean": found.mean,
        "std": found.std,
        "optim.lr": LR if config.weights is None else LR_FROM_WEIGHTS,
        "optim.backbone_lr": 1.0,
    }
    return Settled(_fill(config, values), notes)


def settled_before(config: Config, before: dict[str, Any]) -> Config:
    """Fills in the keys of `config.SETTLED` where they are null with those of the run that goes on.

    Arguments:
        before: dotted keys and values of that run; one that was started before a key existed lacks it.
    """
    return _fill(config, {"optim.backbone_lr": 1.0, "model.tail": None} | before)


def task_normalisation(config: AnyConfig) -> tuple[list[float], list[float]]:
    """Mean and deviation, RGB in 0..1, that a task's images are normalised with where there are no weights."""
    mean, std = INCEPTION if isinstance(config, DetConfig) else Preprocessing()[:2]
    return list(mean), list(std)


def expected(config: AnyConfig) -> Expected:
    """What the weights of an experiment, a backbone's or a whole model's, were trained with.

    Raises:
        InputError: they cannot be fetched or read, or are of no known layout.
    """
    weights = config.weights
    assert weights is not None
    if isinstance(config, JointConfig):
        weights = initial_files(weights)[0]
    elif not isinstance(config, BackboneConfig):
        names = backbones.read_weights(weights)
        if any(name.startswith(PUBLISHED_HEADS) for name in names):
            found = (seg if isinstance(config, SegConfig) else det).from_weights(weights)
            return Expected(found.arguments.get("padding", "symmetric"), list(found.mean), list(found.std))
    name = _architecture(config)
    images = expected_preprocessing(weights, name=name)
    return Expected(expected_padding(weights, name=name), list(images.mean), list(images.std))


def _architecture(config: AnyConfig) -> str:
    """The name of an experiment's backbone, or its network in strings."""
    return config.model.name if isinstance(config, BackboneConfig) else config.model.backbone


def _fill(config: Config, values: dict[str, Any]) -> Config:
    """The config with its null keys among `config.SETTLED` set to these values, by dotted key."""

    def filled(section: Any, prefix: str, *keys: str) -> Any:
        null = [key for key in keys if getattr(section, key) is None]
        return dataclasses.replace(section, **{key: values[prefix + key] for key in null})

    config = filled(config, "", "mean", "std")
    return dataclasses.replace(
        config,
        model=filled(
            config.model, "model.", *(("padding", "tail") if isinstance(config, JointConfig) else ("padding",))
        ),
        optim=filled(config.optim, "optim.", "lr", "backbone_lr"),
    )


def _text(value: str | list[float]) -> str:
    return value if isinstance(value, str) else " ".join(f"{number:.3g}" for number in value)
