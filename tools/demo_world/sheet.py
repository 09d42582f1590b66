"""Draws the sheet that `tools.demo` ends with: images beside what the trained models make of them."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from backbone.data.images import read_image
from tools.predict import load


def write_sheet(path: Path, weights: Sequence[Path], images: Sequence[Path]) -> None:
    """Writes an image with one row per input: as it is, then with each model's result drawn on it.

    Arguments:
        images: all of one size.
    """
    models = [load(file, engine="torch") for file in weights]
    rows = []
    for image in images:
        frame = read_image(image)
        rows.append(np.hstack([frame, *(model(frame).draw(frame) for model in models)]))
    cv2.imwrite(str(path), np.vstack(rows))
