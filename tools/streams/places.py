"""Where an output file is made: beside its final name, and only where it may be."""

from pathlib import Path

import cv2
import numpy as np

from backbone.errors import InputError


def part_of(path: Path) -> Path:
    """The name under which a file grows until it is finished."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def prepare_place(path: Path, overwrite: bool) -> None:
    """Makes the folder of a file and checks that the file can be written there.

    Arguments:
        overwrite: a file of that name, finished or not, may be replaced.

    Raises:
        InputError: it exists, or the place cannot be written.
    """
    part = part_of(path)
    if path.exists() and not overwrite:
        raise InputError(f"--output {path} exists: give --overwrite to replace it")
    if part.exists() and not overwrite:
        raise InputError(
            f"--output {path}: another run is writing {part} or was killed: give --overwrite to replace it"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Tells now, not after the model is loaded, whether the place can be written.
        with part.open("ab"):
            pass
        if part.stat().st_size == 0:
            part.unlink()
    except OSError as error:
        raise InputError(f"--output {path} cannot be written: {error.strerror}") from None


def pad_to_even(image: np.ndarray) -> np.ndarray:
    """An image `[H, W, 3]` with its last row and column repeated where a side is odd, as codecs need it."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return image


def padding_note(height: int, width: int) -> str:
    """What the reader of the result should know about its size; empty where it is even."""
    if height % 2 or width % 2:
        return f"padded to the even size {width + width % 2}x{height + height % 2} by repeating the last row or column"
    return ""
