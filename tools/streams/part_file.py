"""A video is written beside its final name and takes that name once it is whole; what all such files have in common."""

import os
from pathlib import Path

import cv2
import numpy as np

from backbone.errors import InputError


def claim(path: Path, overwrite: bool) -> Path:
    """The name beside the path to write under, `<stem>.part<suffix>`; missing folders are made.

    Arguments:
        overwrite: a file of either name may be replaced.

    Raises:
        InputError: existing file, or a place that cannot be written.
    """
    part = path.with_name(f"{path.stem}.part{path.suffix}")
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
    return part


def take_name(part: Path, path: Path) -> None:
    """Gives a finished file its final name.

    Raises:
        InputError: it cannot be renamed.
    """
    try:
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"--output {path} cannot take the name of {part}: {error.strerror}") from None


def check_count(path: Path, part: Path, readable: int, written: int) -> None:
    """Compares the frames that can be read back with those written.

    Raises:
        InputError: they differ; the part file stays.
    """
    if readable != written:
        raise InputError(
            f"--output {path}: {readable} of {written} frames can be read back from {part}; is the disk full?"
        )


def check_size(path: Path, number: int, size_hw: tuple[int, int], first_hw: tuple[int, int]) -> None:
    """A video has one size.

    Raises:
        InputError: frame `number` has another (height, width) than the first.
    """
    if size_hw != first_hw:
        raise InputError(
            f"--output {path}: frame {number} is {size_hw[1]}x{size_hw[0]}, the first was {first_hw[1]}x{first_hw[0]}; "
            "a video has one size, write to a folder instead"
        )


def even(image: np.ndarray) -> np.ndarray:
    """The image `[H, W, 3]` with even sides, as codecs that store color at half size need it; padded if it has not."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return image


def padding_note(size_hw: tuple[int, int]) -> str:
    """What the reader of a video should know of frames of (height, width); empty where `even` changes nothing."""
    height, width = size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2
    if (height, width) == size_hw:
        return ""
    return f"padded to the even size {width}x{height} by repeating the last row or column"
