"""What the user asks of a run of `tools.video`, by subject; how results are drawn is `overlay.Drawing`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reading:
    """What is read."""

    source: str  # as `sources.open_source` takes it
    max_frames: int | None = None  # stop after so many


@dataclass(frozen=True)
class Predicting:
    """What runs on each frame; as `tools.predict.load` takes it."""

    weights: Sequence[Path]
    engine: str = "auto"
    device: str | None = None


@dataclass(frozen=True)
class Writing:
    """Where drawn frames and the report go."""

    output: Path | None = None  # as `sinks.open_sink` takes it; None: frames are only shown
    sound: bool = False  # copy the source's
    overwrite: bool = False  # replace an output that exists
    fps: float | None = None  # frames per second of the output, at a fixed rate; None: the source's times
    show: bool = False  # in a window
    status: Path | None = None  # of the report in JSON; None: beside the output
