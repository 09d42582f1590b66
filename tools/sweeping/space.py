"""What a sweep searches in: lists and ranges among the overrides of a config; free of torch and Optuna."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from backbone.errors import InputError
from tools.io.shipped import find_config
from tools.run.config import AnyConfig, BackboneConfig, DetConfig, SegConfig, flatten, load

KINDS: dict[str, type] = {"seg": SegConfig, "det": DetConfig, "backbone": BackboneConfig}
"""The config of each training tool, by what follows `train_`."""
SCORES = {"seg": "miou", "det": "AP", "backbone": "top1"}
"""By which metric each tool keeps its best weights."""


class Choices(NamedTuple):
    """Values of a key, each as an override has it."""

    values: tuple[str, ...]


class Range(NamedTuple):
    """An interval of a key's values, with both ends."""

    low: float
    high: float
    step: float | None  # None: any number between; of whole numbers 1 or more
    log: bool
    whole: bool


class Experiment(NamedTuple):
    """What is trained and varied."""

    task: str  # of `KINDS`
    config: Path
    fixed: list[str]  # overrides of every trial, but run.out
    space: dict[str, Choices | Range]  # by key
    out: Path
    trials: int
    settings: dict[str, Any]  # the config, flat, with the fixed overrides

    def combinations(self) -> list[dict[str, str]] | None:
        """Every combination of the lists, None where there is a range."""
        lists = [choice.values for choice in self.space.values() if isinstance(choice, Choices)]
        if len(lists) < len(self.space):
            return None
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*lists)]


def read_experiment(path: Path, overrides: Sequence[str], task: str | None, trials: int | None) -> Experiment:
    """Reads a config and tells what is fixed from what is searched; every value of a list is tried on the config.

    Arguments:
        task: of `KINDS`; None to find it out.
        trials: None for all combinations.
    Raises:
        InputError: the config or an override cannot be, nothing is searched, or `trials` is missing.
    """
    path = find_config(path)
    task = task or find_task(path)
    kind = KINDS[task]
    takes_list = {key for key, value in flatten(kind()).items() if isinstance(value, list)}
    takes_list |= {"mean", "std", "model.taps", "loss_settings.class_weights"}  # by default none
    fixed: list[str] = []
    texts: dict[str, Any] = {}
    for text in overrides:
        key, _, value = text.partition("=")
        parsed = _parse(text, value)
        is_range = isinstance(parsed, str) and ".." in parsed
        nested = isinstance(parsed, list) and all(isinstance(entry, list) for entry in parsed) and parsed != []
        if is_range or nested or (isinstance(parsed, list) and key not in takes_list):
            texts[key] = parsed
        else:
            fixed.append(text)
    config = load(kind, path, fixed)
    if not texts:
        raise InputError("nothing to search in: give a key a list or a range, e.g. optim.lr=1e-4..1e-2:log")
    space = {key: _entry(kind, path, fixed, key, value) for key, value in texts.items()}
    settings = flatten(config)
    out = Path(settings.pop("run.out"))
    experiment = Experiment(task, path, [text for text in fixed if not _sets_out(text)], space, out, 0, settings)
    combinations = experiment.combinations()
    if trials is None and combinations is None:
        raise InputError("--trials is missing; a range has no end of values, so say how many to try")
    every = math.inf if combinations is None else len(combinations)
    return experiment._replace(trials=int(min(every, trials or every)))


def find_task(path: Path) -> str:
    """The tool that a config is for, told by its keys.

    Raises:
        InputError: it is for none, or could be for several.
    """
    fitting, errors = [], []
    for task, kind in KINDS.items():
        try:
            load(kind, path, [])
        except InputError as error:
            errors.append(error)
        else:
            fitting.append(task)
    if not fitting:
        raise errors[0]
    if len(fitting) > 1:
        raise InputError(f"{path}: could be for each of train_{', train_'.join(fitting)}; say which by --task")
    return fitting[0]


def _parse(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{text}: not a valid value ({' '.join(str(error).split())})") from error


def _entry(kind: Any, path: Path, fixed: list[str], key: str, value: Any) -> Choices | Range:
    """What one key is searched in, tried on the config."""

    def tried(text: str) -> Any:
        config: AnyConfig = load(kind, path, [*fixed, f"{key}={text}"])
        return flatten(config).get(key)

    if key == "run.out":
        raise InputError("run.out is the sweep's own folder; give it one value")
    if isinstance(value, list):
        if len(value) < 2:
            raise InputError(f"{key}={value}: one value is nothing to search in; give two or more")
        choices = Choices(tuple(_as_text(entry) for entry in value))
        for text in choices.values:
            tried(text)
        if len(set(choices.values)) < len(choices.values):
            raise InputError(f"{key}: a value is listed twice")
        return choices
    ends, _, how = value.partition(":")
    low_text, _, high_text = ends.partition("..")
    try:
        low, high = float(low_text), float(high_text)
        step = None if how in ("", "log") else float(how)
    except ValueError:
        raise InputError(f"{key}={value}: a range is LOW..HIGH, LOW..HIGH:STEP or LOW..HIGH:log") from None
    if not low < high or (step is not None and not 0 < step <= high - low) or (how == "log" and low <= 0):
        raise InputError(f"{key}={value}: a range rises, from above 0 for log, by a step that fits into it")
    values = [tried(text) for text in (low_text, high_text)]
    whole = all(isinstance(found, int) and not isinstance(found, bool) for found in values)
    if whole and step is not None and step != int(step):
        raise InputError(f"{key}={value}: takes whole numbers, so its step is one too")
    return Range(low, high, step, how == "log", whole)


def _as_text(value: Any) -> str:
    """A value as an override has it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _sets_out(text: str) -> bool:
    return text.partition("=")[0] == "run.out"
