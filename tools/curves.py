"""Draws a run's log as a picture: losses, learning rate and scores over the steps."""

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw_curves(log: Path, picture: Path) -> None:
    """Reads `log.csv` (step, name, value) and writes a PNG with one panel per kind of figure."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            curves[row["name"]].append((int(row["step"]), float(row["value"])))
    losses = {name: points for name, points in curves.items() if "loss" in name}
    scores = {name: points for name, points in curves.items() if name.startswith("val/") and name.count("/") == 1}
    panels = [("loss", losses), ("learning rate", {"lr": curves["lr"]}), ("validation", scores)]

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for name, points in lines.items():
            axis.plot(
                *zip(*points, strict=True), label=name.removeprefix("val/"), marker="." if len(points) < 50 else ""
            )
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize="small")
    figure.savefig(picture, dpi=110)
    plt.close(figure)
