"""Building a classifier and its forward pass on 224x224, beside timm's of the same network."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch

import backbone
from tools.benchmarks.timing import alternate, medians
from tools.benchmarks.timm_names import TIMM_NAMES
from tools.io.console import console, table

BATCHES = (1, 32)


def benchmark(*, names: Sequence[str], compile: bool, rounds: int) -> None:
    """Prints the comparison.

    Arguments:
        names: keys of `TIMM_NAMES`.
        compile: both after `torch.compile` too.
        rounds: of building and of the larger batch; a single image gets five times as many.
    """
    import timm  # an extra, dev

    keep_memory()
    rows = []
    with torch.inference_mode():
        for name in names:
            console.print(name)
            makers = (partial(backbone.classifier, name), partial(timm.create_model, TIMM_NAMES[name]))
            models = [make().eval() for make in makers]
            times = [compare(*makers, rounds)]
            for compiled in (False, True)[: 1 + compile]:
                ours, theirs = (torch.compile(model) if compiled else model for model in models)
                for batch in BATCHES:
                    images = torch.randn(batch, 3, 224, 224)
                    times.append(
                        compare(partial(ours, images), partial(theirs, images), rounds * (5 if batch == 1 else 1))
                    )
            rows.append([name, *(f"{ours:.1f} / {theirs:.1f} = {ours / theirs:.2f}" for ours, theirs in times)])
    columns = ["", "building", *(f"eager, batch {batch}" for batch in BATCHES)]
    columns += [f"compiled, batch {batch}" for batch in BATCHES] if compile else []
    title = f"milliseconds, taproot / timm; {torch.get_num_threads()} threads, {rounds} rounds"
    console.print(table(title, columns, rows))


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median milliseconds of both."""
    median = medians(alternate({"taproot": ours, "timm": theirs}, rounds))
    return 1000 * median["taproot"], 1000 * median["timm"]


def keep_memory() -> None:
    """Lets the process keep what it frees (glibc).

    By default every large activation is mapped from the system and unmapped again, and a third of a forward pass
    is page faults. Without this, one contender also pays page faults for memory the other freed, which was seen to
    shift ratios by 0.15.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no allocation gets a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing is given back to the system
