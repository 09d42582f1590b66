"""True labels of a video's frames, and how a prediction is compared with them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbone.data.images import IMAGE_SUFFIXES, read_label
from backbone.errors import InputError
from tools.streams.frames import Frame

IGNORED = 255
RED, GREY = (40, 40, 230), (128, 128, 128)  # BGR


class Truth:
    """Label images in a folder, named as the frames' images, or by the frames' numbers as 000012.png.

    Arguments:
        folder: its images hold the model's labels; 255 is ignored.

    Raises:
        InputError: no folder, or no images in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"--compare {folder}: no such folder; it should hold label images named as the frames")
        self.folder = folder
        self._paths = {path.stem: path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
        if not self._paths:
            raise InputError(f"--compare {folder}: the folder holds no image; known are {', '.join(IMAGE_SUFFIXES)}")

    def labels(self, frame: Frame) -> np.ndarray | None:
        """The labels of a frame, uint8 `[H, W]`, or None where the folder has none.

        Raises:
            InputError: an image that holds no labels, or one of another size.
        """
        path = self._paths.get(f"{frame.index:06}" if frame.path is None else frame.path.stem)
        if path is None:
            return None
        labels = read_label(path)
        if labels.shape != frame.image.shape[:2]:
            (height, width), (frame_height, frame_width) = labels.shape, frame.image.shape[:2]
            raise InputError(f"--compare {path}: is {width}x{height}, the frame {frame_width}x{frame_height}")
        return labels


def draw_truth(frame: np.ndarray, result: Any, truth: np.ndarray, opacity: float) -> tuple[np.ndarray, np.ndarray]:
    """The frame, uint8 BGR `[H, W, 3]`, tinted in the truth's colors; and, darkened, with wrong pixels in red.

    Arguments:
        result: the prediction, of segmentation.
        truth: uint8 `[H, W]`.
    """
    true = result._replace(labels=truth).draw(frame, opacity=opacity)
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    errors = grey // 2
    errors[(truth != result.labels) & (truth != IGNORED)] = RED
    errors[truth == IGNORED] = GREY
    return true, errors


def accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    """The share of pixels that are right, 0 to 1; ignored ones do not count, and without others it is nan."""
    counted = truth != IGNORED
    return float((labels == truth)[counted].mean()) if counted.any() else float("nan")
