"""Writes label maps as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tools.io.files import replace_file


def save_mask(path: Path, ids: np.ndarray, palette: Sequence[int] | None = None) -> None:
    """Writes ids, uint8 [H, W], as the grey PNG that evaluations read.

    Arguments:
        palette: RGB, 0 to 255, of all 256 ids, one after the other: makes a PNG that is shown in these colors.
    """
    image = Image.fromarray(ids)
    if palette is not None:
        image.putpalette(list(palette))  # from now on of mode P: the pixels stay ids
    replace_file(path, lambda part: image.save(part, "PNG"))
