"""A small data set for classification."""

from pathlib import Path

import cv2
import numpy as np


def draw_classes(folder: Path) -> Path:
    """Two classes of noise, 8 training and 8 validation images of 40x40 each; returns the folder."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for number in range(8):
                image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / split / name / f"{number}.png"), image)
    return folder
