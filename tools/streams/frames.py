"""A frame on its way from a source to a sink."""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class Frame(NamedTuple):
    """An image and its place in the source."""

    image: np.ndarray  # uint8 BGR [H, W, 3]
    index: int  # in the source, from 0; frames that were dropped count
    seconds: float  # since the first frame of the source
    path: Path | None = None  # of the image file, where the source is image files
