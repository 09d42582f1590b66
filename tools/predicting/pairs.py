"""What models find in a frame as pairs of task and result; the one place where a joint network's becomes several."""

from collections.abc import Sequence
from typing import Any

from tools.options import JOINT

Pairs = list[tuple[str, Any]]
"""Of one frame: task and result, segmentations first, so that boxes are drawn over them."""


def parts(predictors: Sequence[Any]) -> list[Any]:
    """The predictors of single tasks, a joint network's by head; in the order of `pairs`."""
    found = []
    for predictor in predictors:
        found += predictor.parts.values() if predictor.task == JOINT else [predictor]
    return sorted(found, key=lambda part: part.task == "detection")


def pairs(predictors: Sequence[Any], results: Sequence[Any]) -> Pairs:
    """Pairs of task and result.

    Arguments:
        results: of one frame, one of each predictor.
    """
    found = []
    for predictor, result in zip(predictors, results, strict=True):
        if predictor.task == JOINT:
            found += [(part.task, result.heads[name]) for name, part in predictor.parts.items()]
        else:
            found.append((predictor.task, result))
    return sorted(found, key=lambda pair: pair[0] == "detection")
