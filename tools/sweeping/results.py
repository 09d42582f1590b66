"""What came out of a sweep: a table, and a picture of parallel coordinates."""

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import optuna
from optuna.trial import TrialState

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import Normalize

from tools.io.files import replace_file
from tools.sweeping.space import SCORES, Choices, Experiment, Range

OUTCOMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}


class Result(NamedTuple):
    """A trial that has ended."""

    number: int
    params: dict[str, Any]
    score: float | None  # the best of its evaluations; None where it failed
    step: int | None  # of this evaluation
    outcome: str

    @property
    def score_text(self) -> str:
        return "" if self.score is None else f"{self.score:.4f}"

    def shown(self, experiment: Experiment) -> list[str]:
        """Its values in the order of the sweep's keys, for a person."""
        values = [self.params[key] for key in experiment.space]
        return [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]


def read_results(study: optuna.Study, experiment: Experiment) -> list[Result]:
    """The trials that have ended, the best first, those without a score last."""
    results = []
    for trial in study.get_trials(deepcopy=False, states=tuple(OUTCOMES)):
        step, score = None, None
        if trial.state != TrialState.FAIL:
            step, score = max(trial.intermediate_values.items(), key=lambda item: item[1])
        results.append(Result(trial.number, trial.params, score, step, OUTCOMES[trial.state]))
    return sorted(results, key=lambda result: (-math.inf if result.score is None else result.score) * -1)


def write_table(path: Path, results: list[Result], experiment: Experiment) -> None:
    """Writes a row for each trial, the best first.

    Raises:
        InputError: it cannot be written.
    """
    keys = list(experiment.space)
    rows: list[list[Any]] = [["trial", *keys, SCORES[experiment.task], "step", "outcome"]]
    for result in results:
        values = [result.params[key] for key in keys]
        rows.append([result.number, *values, result.score, result.step, result.outcome])

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    replace_file(path, write)


def draw_results(path: Path, results: list[Result], experiment: Experiment) -> None:
    """Draws an axis for each key and one for the score, and a line for each trial that has a score.

    Raises:
        InputError: it cannot be written.
    """
    scored = [result for result in reversed(results) if result.score is not None]  # the best last, on top
    scores = [result.score for result in scored if result.score is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1e-9)
    axes = {**experiment.space, SCORES[experiment.task]: Range(low, high, None, log=False, whole=False)}
    figure, axis = plt.subplots(figsize=(max(6, 2.2 * len(axes)), 5), layout="constrained")
    for result, score in zip(scored, scores, strict=True):
        heights = [_height(entry, result.params[key]) for key, entry in experiment.space.items()]
        complete = result.outcome == "complete"
        axis.plot(
            [*heights, float(norm(score))],
            color=plt.get_cmap("viridis")(norm(score)),
            linewidth=2 if complete else 1,
            linestyle="-" if complete else ":",
        )
    for position, entry in enumerate(axes.values()):
        axis.axvline(position, color="black", linewidth=1)
        for height, text in _ticks(entry):
            axis.annotate(text, (position, height), (5, 0), textcoords="offset points", va="center", fontsize="small")
            axis.plot(position, height, marker="_", color="black")
    axis.set_xticks(range(len(axes)), list(axes))
    axis.set_yticks([])
    axis.set_xlim(-0.1, len(axes) - 0.6)
    axis.set_title("a line for each trial, yellow the best; dotted: ended early", fontsize="medium")
    axis.spines[:].set_visible(False)
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
    plt.close(figure)


def _height(entry: Choices | Range, value: Any) -> float:
    """Where a value lies on its axis, 0 to 1."""
    if isinstance(entry, Choices):
        return entry.values.index(value) / (len(entry.values) - 1)
    low, high, value = (math.log(number) if entry.log else number for number in (entry.low, entry.high, value))
    return (value - low) / (high - low)


def _ticks(entry: Choices | Range) -> list[tuple[float, str]]:
    """Heights and texts along an axis."""
    if isinstance(entry, Choices):
        return [(_height(entry, value), value) for value in entry.values]
    if entry.low == entry.high:
        return [(0.0, f"{entry.low:.4g}")]
    space = np.geomspace if entry.log else np.linspace
    return [(_height(entry, value), f"{value:.3g}") for value in space(entry.low, entry.high, 5)]
