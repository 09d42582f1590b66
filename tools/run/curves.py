"""Draws a run's log as an image: losses, learning rate and scores over the steps; or a learning-rate range test."""

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from tools.io.files import replace_file

MANY = 6
"""More lines have twenty colors, and their legend stands beside them, which it would hide."""


def draw_curves(log: Path, image: Path) -> None:
    """Reads `log.csv` (step, name, value) and writes a PNG: losses, learning rate and validation over the steps.

    Raises:
        InputError: the PNG cannot be written.
    """
    curves = read_log(log)
    losses = {name: points for name, points in curves.items() if "loss" in name}
    scores = {name: points for name, points in curves.items() if name.startswith("val/") and name.count("/") == 1}
    # COCO's -1 is no score: there was nothing to find.
    scores = {name: points for name, points in scores.items() if any(value != -1 for _, value in points)}
    panels = [("loss", losses), ("learning rate", {"lr": curves["lr"]}), ("validation", scores)]

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    for axis, (title, lines) in zip(axes, panels, strict=True):
        if len(lines) > MANY:  # more than the usual ten colors
            axis.set_prop_cycle(color=matplotlib.colormaps["tab20"].resampled(20)(range(20)))
        for name, points in lines.items():
            axis.plot(
                *zip(*points, strict=True), label=name.removeprefix("val/"), marker="." if len(points) < 50 else ""
            )
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(lines) > MANY:
            axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        elif len(lines) > 1:
            axis.legend(fontsize="small")
    _save(figure, image)


def draw_lr_range(log: Path, figures: Path, image: Path) -> float:
    """Draws the loss of a learning-rate range test over the rate and returns the rate at which the loss falls fastest.

    `figures` becomes a CSV of rate, loss and the loss's running mean, which decides.

    Raises:
        InputError: a file cannot be written.
    """
    curves = read_log(log)
    rates, losses = (np.array([value for _, value in curves[name]]) for name in ("lr", "loss"))
    smooth = np.empty_like(losses)
    mean = 0.0
    for index, value in enumerate(losses):  # a running mean, corrected for its start at 0
        mean = 0.9 * mean + 0.1 * value
        smooth[index] = mean / (1 - 0.9 ** (index + 1))
    lowest = int(smooth.argmin())
    slopes = np.gradient(smooth, np.log(rates)) if len(rates) > 1 else np.zeros(1)
    first = min(10, lowest)  # a running mean of fewer losses follows each of them
    fastest = float(rates[first + slopes[first : lowest + 1].argmin()])

    def write_figures(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            csv.writer(file).writerows([("lr", "loss", "running_mean"), *zip(rates, losses, smooth, strict=True)])

    replace_file(figures, write_figures)

    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    axis.plot(rates, losses, alpha=0.3, label="loss")
    axis.plot(rates, smooth, label="running mean")
    axis.axvline(fastest, color="black", linestyle="--", label=f"falls fastest: {fastest:.2g}")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylim(top=2 * losses[0] - min(0, smooth.min()))
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, image)
    return fastest


def read_log(log: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) pairs by name."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            curves[row["name"]].append((int(row["step"]), float(row["value"])))
    return curves


def _save(figure: Figure, image: Path) -> None:
    replace_file(image, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
    plt.close(figure)
