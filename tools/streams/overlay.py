"""Draws results on a frame, and under it a strip with the classes present and the speed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbone.lettering import letters, write
from tools.joint.panoptic import combine
from tools.streams.blurring import blur
from tools.streams.truth import accuracy, draw_truth
from tools.tracking.tracker import Trail
from tools.tracking.trails import draw_trails

WIDEST = 16 / 9
"""Frames wider than this are set one above the other, others side by side."""

BLINK_S = 0.5
PAPER, INK = (32, 32, 32), (255, 255, 255)


@dataclass(frozen=True)
class Drawing:
    """How results are drawn."""

    opacity: float = 0.5  # of the segmentation's colors, 0 to 1
    score_threshold: float = 0.5  # detections below it are not drawn
    legend: bool = True  # names of the classes in the image, and frames per second
    view: str = "overlay"  # of `tools.options.VIEWS`
    blur: Sequence[str] = ()  # classes made unrecognisable
    compare: Path | None = None  # a folder of true labels, as `truth.Truth` takes it


def draw(
    frame: np.ndarray,
    results: Sequence[tuple[str, Any]],
    drawing: Drawing,
    frames_per_second: float,
    *,
    seconds: float = 0.0,
    truth: np.ndarray | None = None,
    trails: Iterable[Trail] = (),
) -> np.ndarray:
    """A copy of the frame, uint8 BGR `[H, W, 3]`, with the results drawn on it in their order, and a legend below it.

    Arguments:
        results: pairs of task and result.
        frames_per_second: of the whole pipeline; 0 is not drawn.
        seconds: the frame's time, for what blinks.
        truth: the frame's true labels, uint8 `[H, W]`; None where they are not known.
        trails: where tracked objects have been.
    """
    if drawing.blur:
        frame = blur(frame, results, drawing.blur)
    segmentations = [result for task, result in results if task == "segmentation"]
    image = _drawn(frame, results, drawing)
    draw_trails(image, trails, seconds)
    remark = ""
    if drawing.compare is not None and segmentations:
        known = np.full(frame.shape[:2], 255, np.uint8) if truth is None else truth
        true, errors = draw_truth(frame, segmentations[0], known, drawing.opacity)
        image = _beside([image, true, errors])
        remark = f"{100 * accuracy(segmentations[0].labels, known):.1f} % right" if truth is not None else "no truth"
    elif drawing.view == "split":
        image = _beside([frame, image])
    elif drawing.view == "blink" and int(seconds / BLINK_S) % 2:
        image = frame
    if not drawing.legend:
        return image.copy() if image is frame else image
    return with_legend(image, segmentations, frames_per_second, min(frame.shape[:2]), remark)


def _drawn(frame: np.ndarray, results: Sequence[tuple[str, Any]], drawing: Drawing) -> np.ndarray:
    """A copy of the frame with the results; a class has one color, in whichever result it is."""
    if drawing.view == "panoptic":
        areas, found = (result for _, result in results)
        return combine(areas, found, drawing.score_threshold).draw(frame, drawing.opacity)
    image = frame  # each draw copies
    colors: dict[str, tuple[int, int, int]] = {}
    for task, result in results:
        if task == "segmentation":
            image = result.draw(image, opacity=drawing.opacity)
            for name, (red, green, blue) in zip(result.classes, result.colors.tolist(), strict=False):
                colors.setdefault(name, (blue, green, red))
        else:
            image = result.draw(image, score_threshold=drawing.score_threshold, colors=colors)
    return image


def _beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one size in a row or, if they are wide or more than two, in a column."""
    height, width = images[0].shape[:2]
    wide = width > WIDEST * height + 1 or (len(images) > 2 and width > height)
    return cv2.vconcat(images) if wide else cv2.hconcat(images)


def with_legend(
    image: np.ndarray, segmentations: Sequence[Any], frames_per_second: float, shorter_side: int, remark: str = ""
) -> np.ndarray:
    """The image with a strip below: speed, and with their colors the classes that are present, in their own order.

    The strip has one line, or two where the names of all classes would not fit into one, so that frames of a video
    have one size whatever is in them; what does not fit is counted. Boxes carry their names themselves.

    Arguments:
        shorter_side: of the frame, which the letters are measured by, pixels.
        remark: written after the speed.
    """
    line = max(14, round(shorter_side / 26))
    width = image.shape[1]

    def needed(name: str) -> int:
        return letters(name, line).shape[1] + line * 2  # with its square and a gap

    names = [name for result in segmentations for name in result.classes]
    count = 1 if sum(map(needed, names)) + 10 * line <= width else 2
    strip = np.full((count * line + line // 2, width, 3), PAPER, np.uint8)
    strip = strip[: strip.shape[0] - strip.shape[0] % 2]
    left, row, top = line // 2, 0, line // 4
    speed = f"{frames_per_second:.1f} frames/s" if frames_per_second > 0 else ""
    for text in filter(None, (speed, remark)):
        left += write(strip, text, left, top, line, INK) + line
    present = [
        (result.classes[label], result.colors[label][::-1].tolist())
        for result in segmentations
        for pixels in [cv2.calcHist([result.labels], [0], None, [256], [0, 256]).ravel()]
        for label in np.flatnonzero(pixels[: len(result.classes)])
    ]
    for number, (name, color) in enumerate(present):
        last = row == count - 1
        rest = 3 * line if number < len(present) - 1 and last else 0  # for "+12"
        if left + needed(name) + rest > width and not last:
            left, row, last = line // 2, row + 1, True
        y = top + row * line
        if left + needed(name) + rest > width and last:
            write(strip, f"+{len(present) - number}", left, y, line, INK)
            break
        cv2.rectangle(strip, (left, y + line // 8), (left + line * 3 // 4, y + line * 7 // 8), color, cv2.FILLED)
        write(strip, name, left + line, y, line, INK)
        left += needed(name)
    return cv2.vconcat([image, strip])
