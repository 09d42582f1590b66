"""The sheet of samples that a check of a data set draws, and where it is written."""

from collections.abc import Sequence
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from backbone.errors import InputError
from tools.io.console import console
from tools.io.files import open_folder, replace_file

CELL_HW = (320, 480)
"""Largest size of an image on the sheet."""

Item = TypeVar("Item")


def sheet_path(out: Path | None, root: Path, images: Sequence[Path]) -> Path:
    """Where the sheet goes; tried before the long work.

    Arguments:
        out: as the user said; by default check/samples.png in the data set's folder.
        root: the data set's folder.
        images: folders that are searched for images, where the sheet would be taken for one.

    Raises:
        InputError: nothing can be written there, or the sheet would lie among the images.
    """
    path = out or root / "check" / "samples.png"
    if any(path.resolve().is_relative_to(folder.resolve()) for folder in images):
        raise InputError(f"{path}: would lie among the data set's images; say where to write it with --out FILE.png")
    try:
        open_folder(path.parent)
    except InputError as error:
        if out is not None:
            raise
        raise InputError(f"{path}: cannot be written; say where to write it with --out FILE.png") from error
    return path


def spread(items: Sequence[Item], count: int) -> Sequence[Item]:
    """No more than so many of the items, evenly spread."""
    return items[:: max(1, len(items) // count)][:count]


def shrink(image_bgr: np.ndarray) -> np.ndarray:
    """An image, uint8 BGR [H, W, 3], resized to fit a cell of the sheet."""
    height, width = image_bgr.shape[:2]
    scale = min(CELL_HW[0] / height, CELL_HW[1] / width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA)


def write_sheet(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Writes images, uint8 BGR [H, W, 3], as one PNG; rows and columns are as large as their largest image."""
    heights = [max(image.shape[0] for image in row) for row in rows]
    widths = [max(image.shape[1] for image in column if image is not None) for column in zip_longest(*rows)]
    sheet = np.zeros((sum(heights), sum(widths), 3), np.uint8)
    for top, row in zip(accumulate(heights, initial=0), rows, strict=False):
        for left, image in zip(accumulate(widths, initial=0), row, strict=False):
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    png = cv2.imencode(".png", sheet)[1].tobytes()
    replace_file(path, lambda part: part.write_bytes(png))
    console.print(f"samples: {path}", soft_wrap=True)


def report_faults(faults: list[str]) -> int:
    """Prints a line for each fault and their number; returns the exit code."""
    for fault in faults:
        print(f"fault: {fault}")
    print(f"{len(faults)} fault{'s' if len(faults) > 1 else ''}" if faults else "no faults")
    return 1 if faults else 0
