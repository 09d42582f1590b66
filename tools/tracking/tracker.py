"""Gives the boxes of a video's frames lasting ids, by the package trackers, and counts the objects."""

import itertools
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from backbone.errors import check_choice
from tools.io.packages import require
from tools.options import TRACKERS

LOW_SCORE = 0.2
"""A track is continued with boxes from this score on: a half hidden object is often found with a low one. On the demo
world's clip, 0.1 gave twice as many false boxes, and 0.3 lost more objects."""
TRAIL_POINTS = 48
TRAIL_SECONDS = 2.0
"""How far back a trail reaches: the newest so many points, none older than this."""
LOST_SECONDS = 0.25
"""How long a trail outlives its object."""
# Boxes of different classes are moved this many pixels apart, as in batched NMS, so that no track changes its class.
CLASS_SHIFT = 1e5
# The least time between two frames: the package passes over a frame whose time does not advance.
MIN_STEP_S = 1e-3


class Detected(Protocol):
    """What a tracker needs of a detector's result; a named tuple."""

    boxes: np.ndarray  # [n, 4] xyxy in pixels
    scores: np.ndarray  # [n]
    labels: np.ndarray  # [n]
    classes: list[str]

    def _replace(self, *, tracks: np.ndarray) -> Any: ...


@dataclass
class Trail:
    """Where a tracked object has been."""

    label: int
    points: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=TRAIL_POINTS))
    """Middle of the box's lower edge: seconds, x and y in pixels; oldest first."""


class Tracker:
    """Follows the objects of one detector through a video: `tracker(result, seconds)` gives the result with ids.

    Ids count from 1. An id has one class. A box has the id -1 until its object was seen in a few frames in a row, and
    where it continues no track and scores below the threshold.

    Arguments:
        kind: one of `TRACKERS`.
        fps: frames per second, where times between frames are even.
        score_threshold: only boxes from this score on begin a track, 0 to 1; lower ones from `LOW_SCORE` on continue
            one, where the kind makes use of them.

    Attributes:
        trails: by id, of objects seen within the last `LOST_SECONDS`.

    Raises:
        InputError: no such kind, or the package trackers is not installed.
    """

    def __init__(self, kind: str, fps: float, score_threshold: float = 0.5) -> None:
        check_choice("tracker", kind, TRACKERS)
        require_trackers(f"--track {kind}")
        self._tracker = _make(kind, fps, score_threshold)
        self._last_seconds = -np.inf
        self._num_counted = 0  # ids up to this one are in the counts
        self._counts: Counter[str] = Counter()
        self.trails: dict[int, Trail] = {}

    def __call__(self, result: Detected, seconds: float) -> Any:
        """The result of the next frame with `tracks`, int64 `[n]`, in the order of its boxes.

        Arguments:
            seconds: time of the frame in the video; frames may be missing and times uneven.
        """
        import supervision

        self._last_seconds = seconds = max(seconds, self._last_seconds + MIN_STEP_S)
        shift = (CLASS_SHIFT * result.labels)[:, None]
        detections = supervision.Detections(
            xyxy=result.boxes.astype(np.float64) + shift,
            confidence=result.scores,
            data={"index": np.arange(len(result.boxes))},
        )
        found = self._tracker.update(detections, timestamp=seconds)
        tracks = np.full(len(result.boxes), -1, np.int64)
        if len(found):  # an empty answer lacks the indices
            ids = np.asarray(found.tracker_id)
            tracks[found.data["index"]] = np.where(ids < 0, -1, ids + 1)
        self._note(result, tracks, seconds)
        return result._replace(tracks=tracks)

    def summary(self) -> dict[str, int]:
        """How many objects of each class were followed so far, by class name; each object counts once."""
        return dict(self._counts.most_common())

    def _note(self, result: Detected, tracks: np.ndarray, seconds: float) -> None:
        """Lengthens the trails, forgets old ones and counts new objects."""
        for box, label, track in zip(result.boxes.tolist(), result.labels.tolist(), tracks.tolist(), strict=True):
            if track < 0:
                continue
            if track > self._num_counted:
                self._counts[result.classes[label]] += 1
            trail = self.trails.setdefault(track, Trail(label))
            trail.points.append((seconds, (box[0] + box[2]) / 2, box[3]))
        self._num_counted = max(self._num_counted, tracks.max(initial=0))  # ids are given in rising order
        oldest = seconds - LOST_SECONDS
        self.trails = {track: trail for track, trail in self.trails.items() if trail.points[-1][0] >= oldest}


class Trackers:
    """A `Tracker` for each detector of a video.

    Arguments:
        kind, fps, score_threshold: as `Tracker`.
        tasks: of the models, in the order of their results.
    """

    def __init__(self, kind: str, fps: float, score_threshold: float, tasks: Sequence[str]) -> None:
        self._trackers = [None if task == "segmentation" else Tracker(kind, fps, score_threshold) for task in tasks]

    def __call__(self, results: Sequence[tuple[str, Any]], seconds: float) -> list[tuple[str, Any]]:
        """Pairs of task and result of the next frame, with ids in those that have boxes."""
        return [
            (task, result if tracker is None else tracker(result, seconds))
            for tracker, (task, result) in zip(self._trackers, results, strict=True)
        ]

    @property
    def trails(self) -> list[Trail]:
        """Of all detectors."""
        return list(itertools.chain.from_iterable(tracker.trails.values() for tracker in self._trackers if tracker))

    def summary(self) -> dict[str, int]:
        """How many objects of each class were followed so far; where detectors share a class, their sum."""
        total: Counter[str] = Counter()
        for tracker in self._trackers:
            if tracker is not None:
                total.update(tracker.summary())
        return dict(total.most_common())


def require_trackers(what: str) -> None:
    """Checks that the package trackers is installed.

    Arguments:
        what: needs it, for the message.

    Raises:
        InputError: it is not.
    """
    require(what, ["trackers"], "run pip install 'taproot[track]'")


def _make(kind: str, fps: float, score_threshold: float) -> Any:
    import trackers

    # The package's own thresholds, 0.6 and 0.7, are for detectors whose good boxes score above 0.9.
    if kind == "sort":
        return trackers.SORTTracker(frame_rate=fps, track_activation_threshold=score_threshold)
    if kind == "ocsort":
        return trackers.OCSORTTracker(frame_rate=fps, high_conf_det_threshold=score_threshold)
    make = {"bytetrack": trackers.ByteTrackTracker, "cbiou": trackers.CBIoUTracker}[kind]
    return make(frame_rate=fps, track_activation_threshold=score_threshold, high_conf_det_threshold=score_threshold)
