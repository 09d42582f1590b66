"""Combines areas and boxes of an image to things with identity: an approximate panoptic segmentation.

The pixels of a thing are those of its class inside its box. Of two boxes that share pixels, the one with the higher
score has them; so things of one class that hide each other are cut along a box's edge, not along their outline.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from backbone.errors import InputError

if TYPE_CHECKING:
    from det import DetectionResult
    from seg import SegmentationResult

LEAST_THING = 16
"""Pixels of a thing; with fewer it is dropped."""
LEAST_OWN = 0.5
"""Of the pixels of its class in a box, those that no better box has taken; with fewer, both boxes are on one thing."""
LEAST_STUFF = 1 / 1024
"""Of the image, the pixels of a class without things; with fewer they are dropped, as noise of the segmentation."""
SHADES = 0.35
"""By how much the colors of one class's things may differ, as a share of 255."""


class Segment(NamedTuple):
    """A thing, or all of an image's pixels of a class that is none."""

    label: int  # of the segmentation's classes
    area: int  # pixels
    box: tuple[int, int, int, int]  # xyxy in pixels, around its pixels
    score: float | None  # of its box; None for what is no thing
    color: tuple[int, int, int]  # RGB, 0 to 255, near its class's; no other segment of the image has it


class PanopticResult(NamedTuple):
    """The segment of each pixel of a frame."""

    places: np.ndarray  # int32 [H, W], indices into `segments`; -1: no segment
    segments: list[Segment]
    classes: list[str]

    def colored(self) -> np.ndarray:
        """The segments' colors, uint8 RGB [H, W, 3]; black where there is none. COCO's ids are R + 256 G + 65536 B."""
        colors = [segment.color for segment in self.segments]
        return np.array([*colors, (0, 0, 0)], np.uint8)[self.places]  # the last one is at -1

    def draw(self, frame_bgr: np.ndarray, opacity: float = 0.5) -> np.ndarray:
        """A copy of the frame, uint8 BGR [H, W, 3], tinted in the segments' colors, things with an outline.

        Arguments:
            opacity: of the tint, 0 to 1.
        """
        image = cv2.addWeighted(frame_bgr, 1 - opacity, np.ascontiguousarray(self.colored()[..., ::-1]), opacity, 0)
        thickness = max(1, round(min(frame_bgr.shape[:2]) / 400))
        for place, segment in enumerate(self.segments):
            if segment.score is not None:
                left, top, right, bottom = segment.box
                mask = (self.places[top:bottom, left:right] == place).astype(np.uint8)
                outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top))
                cv2.drawContours(image, outlines, -1, (255, 255, 255), thickness)
        return image


def common_classes(area_classes: Sequence[str], box_classes: Sequence[str]) -> dict[int, int]:
    """The things: labels of boxes with those of the areas of the same name.

    Raises:
        InputError: there is no such class.
    """
    common = {box_classes.index(name): label for label, name in enumerate(area_classes) if name in box_classes}
    if not common:
        raise InputError(
            f"panoptic: no class is known to both heads; areas are {', '.join(area_classes)}; boxes are "
            f"{', '.join(box_classes)}"
        )
    return common


def combine(areas: "SegmentationResult", found: "DetectionResult", score_threshold: float = 0.0) -> PanopticResult:
    """The segments of a frame.

    Pixels of a thing's class that are in no box belong to no segment, and boxes of other classes make none.

    Arguments:
        found: boxes of the same frame.
        score_threshold: boxes below this score make no segment.

    Raises:
        InputError: no class is known to both.
    """
    things = common_classes(areas.classes, found.classes)
    labels = areas.labels
    height, width = labels.shape
    places = np.full(labels.shape, -1, np.int32)
    segments: list[Segment] = []
    colors = _Colors(areas.colors)
    for number in np.argsort(-found.scores, kind="stable"):
        label = things.get(int(found.labels[number]))
        if label is None or found.scores[number] < score_threshold:
            continue
        box = found.boxes[number]
        left, top = np.maximum(0, np.floor(box[:2])).astype(int)
        right, bottom = np.minimum((width, height), np.ceil(box[2:])).astype(int)
        inside = labels[top:bottom, left:right] == label
        free = inside & (places[top:bottom, left:right] < 0)
        area = int(free.sum())
        if area < max(LEAST_THING, LEAST_OWN * inside.sum()):
            continue
        places[top:bottom, left:right][free] = len(segments)
        around = _around(free, int(left), int(top))
        segments.append(Segment(label, area, around, float(found.scores[number]), colors.next(label)))
    counts = np.bincount(labels.ravel(), minlength=len(areas.classes))[: len(areas.classes)]
    for label in np.flatnonzero(counts >= max(1, LEAST_STUFF * labels.size)):
        if label not in things.values():
            mask = labels == label
            places[mask] = len(segments)
            segments.append(Segment(int(label), int(counts[label]), _around(mask, 0, 0), None, colors.next(int(label))))
    return PanopticResult(places, segments, areas.classes)


def _around(mask: np.ndarray, left: int, top: int) -> tuple[int, int, int, int]:
    """The box xyxy around a mask bool [h, w] whose corner is at (left, top), in pixels."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return left + x, top + y, left + x + width, top + y + height


class _Colors:
    """Colors near those of the classes, each given once.

    Arguments:
        colors: uint8 RGB [K, 3], by label.
    """

    def __init__(self, colors: np.ndarray) -> None:
        self.colors = colors
        self.random = np.random.default_rng(0)  # the same image has the same colors each time
        self.given = {(0, 0, 0)}  # black is for pixels without a segment

    def next(self, label: int) -> tuple[int, int, int]:
        """A color RGB, the class's own if it is free."""
        color = tuple(self.colors[label].tolist())
        while color in self.given:
            towards_gray = np.where(self.colors[label] < 128, 255, -255)
            color = tuple((self.colors[label] + self.random.uniform(0, SHADES, 3) * towards_gray).astype(int).tolist())
        self.given.add(color)
        return color


def coco_categories(
    area_classes: Sequence[str], colors: np.ndarray, box_classes: Sequence[str], ids: np.ndarray
) -> list[dict[str, Any]]:
    """The categories of COCO's panoptic json.

    Arguments:
        colors: uint8 RGB [K, 3], by label of the areas.
        ids: category ids by label of the areas, uint8 [256].
    """
    things = common_classes(area_classes, box_classes).values()
    return [
        {
            "id": int(ids[label]),
            "name": name,
            "supercategory": name,
            "isthing": int(label in things),
            "color": colors[label].tolist(),
        }
        for label, name in enumerate(area_classes)
    ]


def coco_segments(result: PanopticResult, ids: np.ndarray) -> list[dict[str, Any]]:
    """The `segments_info` of COCO's panoptic json for a frame; things have a `score` too.

    Arguments:
        ids: category ids by label of the areas, uint8 [256].
    """
    rows = []
    for label, area, (left, top, right, bottom), score, (red, green, blue) in result.segments:
        row = {
            "id": red + 256 * green + 65536 * blue,
            "category_id": int(ids[label]),
            "area": area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
        }
        rows.append(row if score is None else row | {"score": round(score, 4)})
    return rows
