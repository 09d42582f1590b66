"""The chart of `tools.benchmark predict`: milliseconds by stage in each engine, and the bound that arithmetic sets."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tools.io.files import replace_file

COLORS = {"read": "#b8b8b8", "prepare": "#7fb3d5", "network": "#1f618d", "finish": "#e59866"}
BOUND = "bound of the network"


def draw_latencies(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG with a panel for each number of threads.

    Arguments:
        report: as benchmark.json has it.

    Raises:
        InputError: the PNG cannot be written.
    """
    results, bounds = report["results"], report["bounds"]
    names = [result["name"] for result in results]
    size = (4.5 * len(bounds) + 2, 1.8 + 0.42 * len(names))
    figure, axes = plt.subplots(1, len(bounds), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (threads, bound) in zip(axes[0], bounds.items(), strict=True):
        ends = [0.0] * len(names)
        for stage, color in COLORS.items():
            widths = [result["threads"][threads]["stages_ms"][stage] for result in results]
            axis.barh(names, widths, left=ends, color=color, label=stage)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
        axis.barh(BOUND, bound["network_ms"], fill=False, edgecolor=COLORS["network"], hatch="///")
        for position, end in enumerate([*ends, bound["network_ms"]]):
            axis.text(end, position, f" {end:.1f}", va="center", fontsize="small")
        axis.set_xlim(0, 1.15 * max(ends))
        axis.set_xlabel("ms per picture, medians of stages")
        axis.set_title(f"{threads} thread{'s' * (int(threads) > 1)}, {bound['gflops']:.0f} GFLOP/s", fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].invert_yaxis()
    (height, width), (rows, columns) = report["picture_hw"], report["network_hw"]
    bound = f"{BOUND}: {report['multiply_adds'] / 1e9:.2f} G multiply-adds at the rate of matrix products"
    figure.suptitle(
        f"{report['task']}: pictures of {width}x{height}, network at {rows}x{columns} (height x width)\n{bound}",
        fontsize="medium",
    )
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    replace_file(path, lambda part: figure.savefig(part, format="png", dpi=120))
    plt.close(figure)
