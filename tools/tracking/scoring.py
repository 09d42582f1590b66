"""Files of tracks, and how well tracks follow the truth: MOTA, IDF1 and HOTA."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbone.errors import InputError

MIN_IOU = 0.5
"""Of a track's box with the truth's, from which on they count as the same object."""


class FrameBoxes(NamedTuple):
    """The boxes of one frame, of all classes."""

    ids: np.ndarray  # [n] int64
    boxes: np.ndarray  # [n, 4] float64, xyxy in pixels
    scored: np.ndarray  # [n] bool; False: a region in which tracks are neither right nor wrong


Tracks = dict[int, FrameBoxes]
"""By frame, from 0."""


def read_tracks(path: Path) -> Tracks:
    """The tracks in a file of MOTChallenge's format, or in a .csv of tools.predict with a column `track`.

    A line of MOTChallenge's is frame (from 1), id, left, top, width, height, scored (0: not to be scored), ....

    Raises:
        InputError: the file cannot be read, or a line is none of that format.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a file of tracks") from None
    with_names = bool(lines) and "track" in lines[0].split(",")
    rows: dict[int, list[tuple[int, list[float], bool]]] = {}
    try:
        if with_names:
            for row in csv.DictReader(lines):
                if row["track"] in ("", "-1"):
                    continue
                edges = [float(row[edge]) for edge in ("x0", "y0", "x1", "y1")]
                rows.setdefault(int(row["frame"]), []).append((int(row["track"]), edges, True))
        else:
            for fields in csv.reader(lines):
                frame, track, left, top, width, height = (float(field) for field in fields[:6])
                edges = [left, top, left + width, top + height]
                scored = len(fields) < 7 or float(fields[6]) != 0
                rows.setdefault(int(frame) - 1, []).append((int(track), edges, scored))
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path}: is no file of tracks ({error}); give one of MOTChallenge's format or tools.predict's .csv"
        ) from None
    return {
        frame: FrameBoxes(
            np.array([track for track, _, _ in boxes], np.int64),
            np.array([edges for _, edges, _ in boxes], np.float64),
            np.array([scored for _, _, scored in boxes], bool),
        )
        for frame, boxes in rows.items()
    }


def score_tracks(truth: Tracks, tracks: Tracks) -> dict[str, float]:
    """How well tracks follow the truth; classes are not compared.

    Tracks' boxes that lie by half or more in a region of the truth that is not scored, and match no scored box, are
    left out.

    Returns:
        `MOTA`, `IDF1` and `HOTA`, 1 is perfect; `switches`, how often an object's id changes; `missed` and `false`
        boxes; `truth_boxes` and `truth_objects`.
    """
    from trackers.eval import compute_clear_metrics, compute_hota_metrics, compute_identity_metrics

    # The package wants ids that count from 0 without gaps.
    truth_numbers = _numbers(truth)
    track_numbers = _numbers(tracks)
    truth_ids, track_ids, overlaps = [], [], []
    for frame in sorted(truth.keys() | tracks.keys()):
        real, found = truth.get(frame, EMPTY), tracks.get(frame, EMPTY)
        overlap = _overlaps(real.boxes[real.scored], found.boxes)
        covered = _overlaps(real.boxes[~real.scored], found.boxes, of_second=True).max(axis=0, initial=0) >= 0.5
        kept = ~covered | (overlap.max(axis=0, initial=0) >= MIN_IOU)
        truth_ids.append(np.array([truth_numbers[one] for one in real.ids[real.scored].tolist()], np.int64))
        track_ids.append(np.array([track_numbers[one] for one in found.ids[kept].tolist()], np.int64))
        overlaps.append(overlap[:, kept])
    given: tuple[Any, ...] = (truth_ids, track_ids, overlaps)
    clear = compute_clear_metrics(*given, threshold=MIN_IOU)
    return {
        "MOTA": float(clear["MOTA"]),
        "IDF1": float(compute_identity_metrics(*given, threshold=MIN_IOU)["IDF1"]),
        "HOTA": float(compute_hota_metrics(*given)["HOTA"]),
        "switches": int(clear["IDSW"]),
        "missed": int(clear["CLR_FN"]),
        "false": int(clear["CLR_FP"]),
        "truth_boxes": sum(len(ids) for ids in truth_ids),
        "truth_objects": len({one for ids in truth_ids for one in ids.tolist()}),
    }


EMPTY = FrameBoxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool))


def _numbers(tracks: Tracks) -> dict[int, int]:
    """The ids of all frames, numbered from 0."""
    ids = sorted({one for boxes in tracks.values() for one in boxes.ids.tolist()})
    return {one: number for number, one in enumerate(ids)}


def _overlaps(first: np.ndarray, second: np.ndarray, of_second: bool = False) -> np.ndarray:
    """IoU `[n, m]` of boxes `[n, 4]` and `[m, 4]`, xyxy; or the share of the second's area that the first's covers."""
    upper = np.minimum(first[:, None, 2:], second[None, :, 2:])
    lower = np.maximum(first[:, None, :2], second[None, :, :2])
    common = np.prod(np.clip(upper - lower, 0, None), axis=2)
    area = np.prod(second[:, 2:] - second[:, :2], axis=1)[None]
    if not of_second:
        area = area + np.prod(first[:, 2:] - first[:, :2], axis=1)[:, None] - common
    return common / np.maximum(area, 1e-9)
