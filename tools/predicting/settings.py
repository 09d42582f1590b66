"""What the user asks of predictions as files; free of torch, for command lines."""

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("overlay", "labels", "color", "scores", "panoptic")
"""What has a file for each image, in a folder of this name."""
TABLES = ("json", "csv")
"""What is one file for all images."""
SAVES = (*FOLDERS, *TABLES)
"""All that can be saved."""
TASKS = {
    "labels": ("segmentation",),
    "color": ("segmentation",),
    "scores": ("segmentation",),
    "panoptic": ("segmentation", "detection"),
    "json": ("detection",),
    "csv": ("detection",),
}
"""The tasks whose results a kind is made of; an overlay is made of any."""


@dataclass(frozen=True)
class Task:
    """What is predicted, and how."""

    weights: Sequence[Path]
    source: str
    engine: str = "auto"  # as `tools.predict.load`, with the next four
    device: str | None = None
    size: tuple[int, int] | int | None = None
    score_threshold: float = 0.3
    nms: bool = True
    batch: int = 1  # images that go through a model at a time
    workers: int = 2  # threads that read, and as many that write
    skip_damaged: bool = False  # pass over images that cannot be read


@dataclass(frozen=True)
class Saving:
    """Which files are written, and where."""

    folder: Path
    kinds: tuple[str, ...] | None = None  # of SAVES; None: labels and json, as the models have them
    overwrite: bool = False  # delete what an earlier run predicted there


def parse_saves(text: str) -> tuple[str, ...]:
    """The kinds in a list that commas separate, each once and in the order of SAVES; for argparse."""
    given = text.split(",")
    for kind in given:
        if kind not in SAVES:
            raise ArgumentTypeError(f"{kind!r} is none of {','.join(SAVES)}")
    return tuple(kind for kind in SAVES if kind in given)
