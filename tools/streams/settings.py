"""What the user asks of a run of `tools.video`, by subject; how results are drawn is `overlay.Drawing`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Reading:
    """What is read."""

    source: str  # as `sources.open_source` takes it
    max_frames: int | None = None  # stop after so many
    start: float = 0.0  # seconds from the source's first frame
    end: float | None = None  # seconds; from this time on nothing is read
    skip: int = 0  # frames left out after each that is taken
    resize: tuple[int, int | None] | None = None  # (width, height or None to keep proportions) of the frames, pixels


@dataclass(frozen=True)
class Predicting:
    """What runs on each frame; as `tools.predict.load` takes it."""

    weights: Sequence[Path]
    engine: str = "auto"
    device: str | None = None
    sizes: Sequence[
        tuple[int, int] | int
    ] = ()  # of each network's input: (height, width) or longer side; none: the usual
    batch: int = 1  # frames in a call of a model; of a live source it is always one
    nms: bool = True


@dataclass(frozen=True)
class Tracking:
    """How detected objects get lasting ids."""

    kind: str  # of tracker, one of `tools.options.TRACKERS`
    trails: bool = True  # drawn


@dataclass(frozen=True)
class Writing:
    """Where drawn frames and the report go."""

    output: Path | None = None  # as `sinks.open_sink` takes it; None: frames are only shown
    overwrite: bool = False  # replace an output that exists
    fps: float | None = None  # constant rate of the output, frames per second; None: the source's, or its times
    sound: bool = False  # copy the source's
    show: bool = False  # in a window
    status: Path | None = None  # of the report in JSON; None: beside the output
