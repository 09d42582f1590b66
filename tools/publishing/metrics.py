"""Reads the metrics.json of an evaluation for a model card, and makes sure that it is of the card's weights."""

import filecmp
import json
from pathlib import Path
from typing import Any, NamedTuple

from backbone.errors import InputError
from backbone.weights.names import is_name
from tools.publishing.tasks import TASKS


class Scored(NamedTuple):
    """What an evaluation found, as a card shows it."""

    values: dict[str, float]  # by metrics.json's names, 0 to 1; only those that are defined
    per_class: dict[str, float]  # by class name; only classes that occur
    protocol: str
    split: str
    images: int


def read_metrics(path: Path, weights: Path, description: dict[str, Any]) -> Scored:
    """The metrics in a metrics.json.

    Arguments:
        weights: the file, or the name, of the weights to publish.
        description: their header's.

    Raises:
        InputError: the file cannot be read, or is of other weights, of another task or of other classes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the metrics.json of an evaluation") from error
    if not isinstance(content, dict) or content.get("task") not in TASKS:
        raise InputError(f"{path}: names no task; give the metrics.json of an evaluation")
    task = TASKS[content["task"]]
    again = f"run tools.{TASKS[description['task']].evaluation} --weights {weights}"
    if content["task"] != description["task"]:
        raise InputError(f"{path}: is of {content['task']}, {weights} is for {description['task']}; {again}")
    per_class = content.get(task.per_class, {})
    facts = (content.get("source"), content.get("protocol"), content.get("split"))
    if not isinstance(per_class, dict) or not all(isinstance(fact, str) for fact in facts):
        raise InputError(f"{path}: lacks its source, protocol or split; {again}")
    source, protocol, split = map(str, facts)
    _check_source(path, source, weights, again)
    classes = description["classes"]
    if classes is not None and (unknown := [name for name in per_class if name not in classes]):
        raise InputError(f"{path}: has the class {unknown[0]!r}, which {weights} does not know; {again}")
    values = {metric.key: content.get(metric.key) for metric in task.metrics}
    images = content.get("images")
    if not isinstance(images, int):
        raise InputError(f"{path}: lacks the number of images; {again}")
    return Scored(_defined(path, values), _defined(path, per_class), protocol, split, images)


def _check_source(path: Path, source: str, weights: Path, again: str) -> None:
    """Refuses metrics whose `source` is another file, or that are older than the weights."""
    if is_name(weights):
        if source != weights.as_posix():
            raise InputError(f"{path}: is of {source}; {again}")
        return
    scored = Path(source)
    if not scored.exists():
        # Written from another folder, or moved since: what lies beside the weights and names such a file is theirs.
        if scored.name == weights.name and path.resolve().parent == weights.resolve().parent:
            return
        raise InputError(f"{path}: is of {source}, which is not there to compare with; {again}")
    if not scored.is_file():
        raise InputError(f"{path}: is of the predictions in {source}, not of weights; {again}")
    if scored.samefile(weights):
        if scored.stat().st_mtime > path.stat().st_mtime:
            raise InputError(f"{path}: is older than {weights}; {again}")
    elif not filecmp.cmp(scored, weights, shallow=False):
        raise InputError(f"{path}: is of {source}, other weights than {weights}; {again}")


def _defined(path: Path, values: dict[str, Any]) -> dict[str, float]:
    """The shares that are defined: null, and COCO's -1, say that there was nothing to find."""
    found = {}
    for name, value in values.items():
        if value is None or value == -1:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"{path}: {name} is {value!r}, which is no share from 0 to 1; evaluate again")
        found[name] = float(value)
    return found
