"""Times contenders in alternating rounds and shows the medians."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from tools.io.console import console, progress, table


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Seconds that each contender took in each round.

    The contenders are called in turn, and each round begins with another one, so that a machine that grows slower
    or caches what the first one read treats all alike.

    Arguments:
        clock: `time.process_time` counts the processor's time instead of the elapsed one.
        warm_up: one more round comes first and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names, first = list(contenders), 0 if warm_up else 1
    with progress() as bar:
        task = bar.add_task("rounds", total=(rounds + 1 - first) * len(names))
        for number in range(first, rounds + 1):
            for index in range(len(names)):
                name = names[(index + number) % len(names)]
                start = clock()
                contenders[name]()
                spent = clock() - start
                if number:
                    seconds[name].append(spent)
                bar.advance(task)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each contender's rounds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_times(title: str, seconds: Mapping[str, list[float]], peer: str) -> None:
    """Prints a table of milliseconds with the ratio of the peer's median to each contender's."""
    median = medians(seconds)
    rows = [
        [
            name,
            f"{1000 * median[name]:.1f}",
            f"{1000 * min(values):.1f} to {1000 * max(values):.1f}",
            f"{median[peer] / median[name]:.2f}x",
        ]
        for name, values in seconds.items()
    ]
    console.print(table(f"{title}, ms", ["", "median", "range", "ratio"], rows))
    console.print(f"{torch.get_num_threads()} threads, {len(seconds[peer])} alternating rounds")
