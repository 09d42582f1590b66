"""Reads pictures and label masks from disk; a damaged or oversized file is an error that names it."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from backbone.errors import InputError

MAX_PIXELS = 100_000_000
"""Headers that claim more are refused before anything is decoded: a 100 KB PNG can expand to 5 GB."""
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns at first; `_open` checks every file

END_OF_FILE = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""A file that was cut short lacks this; OpenCV would fill the rest of a JPEG with grey and say nothing."""

ROTATED = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width; OpenCV applies them."""


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) as `read_image` would return it, from the header alone."""
    with _open(path, path) as header:
        return _size(header)


def read_image(path: str | Path) -> np.ndarray:
    """A picture of any usual format as uint8 BGR [H, W, 3], turned as its EXIF orientation says.

    Raises:
        InputError: missing, empty, not a picture, cut short, damaged, or larger than MAX_PIXELS.
    """
    data = _bytes(path)
    with _open(path, io.BytesIO(data)) as header:
        end = END_OF_FILE.get(header.format)
    if end is not None and end not in data[-4096:]:
        raise InputError(f"{path}: the picture is cut short (no end mark); copy the file again")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path}: the picture is damaged and cannot be decoded; copy the file again")
    return image


def read_label(path: str | Path) -> np.ndarray:
    """A mask of class ids as uint8 [H, W]: grey or palette (the index is the id), never colours.

    Raises:
        InputError: as `read_image`, and for masks with colour channels or with ids above 255.
    """
    labels = read_ids(path)
    if labels.size and labels.max() > 255:
        raise InputError(f"{path}: ids must be at most 255, found {labels.max()}; is this an …_instanceIds.png file?")
    return labels.astype(np.uint8)


def read_ids(path: str | Path) -> np.ndarray:
    """A mask of ids of any size as integers [H, W]; otherwise as `read_label`."""
    with _open(path, io.BytesIO(_bytes(path))) as mask:
        if mask.mode not in ("1", "L", "P", "I", "I;16"):
            raise InputError(f"{path}: a mask holds one id per pixel, this is {mask.mode}; use the …_labelIds.png file")
        try:
            return np.asarray(mask)
        except (OSError, SyntaxError) as error:
            raise InputError(f"{path}: the mask is damaged ({error}); copy the file again") from error


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _open(path: str | Path, file: str | Path | io.BytesIO) -> Image.Image:
    """Opens a picture lazily and checks the size its header claims."""
    try:
        header = Image.open(file)
    except UnidentifiedImageError as error:
        start = file.getvalue()[:12] if isinstance(file, io.BytesIO) else b""
        what = f"begins with {start!r}" if start else "is empty or of an unknown format"
        raise InputError(f"{path}: not a picture ({what}); replace the file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    height, width = _size(header)
    if height * width > MAX_PIXELS:
        raise InputError(f"{path}: {width}x{height} pixels is above the limit of {MAX_PIXELS}; shrink the picture")
    return header


def _size(header: Image.Image) -> tuple[int, int]:
    width, height = header.size
    rotated = header.format == "JPEG" and header.getexif().get(0x0112) in ROTATED
    return (width, height) if rotated else (height, width)
