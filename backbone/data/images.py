"""Reads images and label masks from disk; a damaged or oversized file is an error that names it."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from backbone.errors import InputError

try:
    import pyspng  # the extra `fast-png`: takes two thirds of OpenCV's time and can stop after the rows that are needed
except ImportError:
    pyspng = None

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""How the names of images end, in lower case, where a folder is searched for them."""

MAX_PIXELS = 100_000_000
"""A file whose header claims more is refused before anything is decoded: a 100 KB PNG can expand to 5 GB."""
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns at first; `_open` checks every file

STARTS = {
    b"version https://git-lfs": "is a Git LFS pointer; run git lfs pull",
    b"<": "is a web page or XML; the download failed",
    b"{": "is JSON or text",
    b"\x00\x00\x00\x00": "begins with zeros; the disk or the copy failed",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"\x1f\x8b": "is a gzip archive; unpack it",
}
"""What a file that is not an image may be, by its first bytes."""

PNG_START = b"\x89PNG\r\n\x1a\n"
RGB_OF_8_BITS, GREY_OF_8_BITS = b"\x08\x02", b"\x08\x00"
"""Bytes 24 and 25 of a PNG."""

ROTATED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width; OpenCV applies them."""
EXIF_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # for TIFF, Pillow already gives the rotated size


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and those below it, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of what `read_image` would return, from the header alone.

    Raises:
        InputError: missing, not an image, or larger than MAX_PIXELS.
    """
    with _open(path, path) as header:
        return _size(header)


def image_mode(path: str | Path) -> str:
    """Pillow's name for a file's channels and depth (RGB, L, P, I;16, …), from the header alone.

    Raises:
        InputError: as `image_size`.
    """
    with _open(path, path) as header:
        return header.mode


def read_image(path: str | Path, rows: int | None = None) -> np.ndarray:
    """An image as uint8 BGR [H, W, 3], rotated by its EXIF orientation.

    Arguments:
        rows: how many rows are needed, from the top; more may be returned. By default all.

    Raises:
        InputError: missing, empty, not an image, cut short, damaged, or larger than MAX_PIXELS.
    """
    data = read_bytes(path)
    with _open(path, io.BytesIO(data)) as header:
        cut = _is_cut(data, header.format)
    if cut:
        raise InputError(f"{path}: the image is cut short (no end mark); copy the file again")
    fast = pyspng is not None and data.startswith(PNG_START) and data[24:26] == RGB_OF_8_BITS
    if fast and b"eXIf" not in data:  # it may follow the pixels, where Pillow does not see it without decoding
        return cv2.cvtColor(_read_png(path, data, "RGB", rows), cv2.COLOR_RGB2BGR)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path}: the image is damaged and cannot be decoded; copy the file again")
    return image


def _is_cut(data: bytes, kind: str | None) -> bool:
    """Whether the end of a JPEG or PNG is missing; OpenCV would silently fill the rest of a JPEG with grey."""
    if kind in ("JPEG", "MPO"):
        # A preview in the header has an end mark of its own, so the last end mark must follow the last start of a scan.
        end = data.rfind(b"\xff\xd9")
        return end < 0 or b"\xff\xda" in data[end:]
    return kind == "PNG" and b"IEND" not in data[-4096:]


def _read_png(path: str | Path, data: bytes, mode: str, rows: int | None) -> np.ndarray:
    """The first rows of a PNG of 8 bits, or all of an interlaced one; the checksums of the whole file are checked."""
    position, kind = len(PNG_START), b""
    while kind != b"IEND":
        kind = data[position + 4 : position + 8]
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        found = int.from_bytes(data[end : end + 4], "big")
        if end + 4 > len(data) or zlib.crc32(memoryview(data)[position + 4 : end]) != found:
            raise InputError(f"{path}: the image is damaged and cannot be decoded; copy the file again")
        position = end + 4
    height, interlaced = *struct.unpack_from(">I", data, 20), data[28]
    if rows is not None and rows < height and not interlaced:
        header = data[12:20] + struct.pack(">I", rows) + data[24:29]
        data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    assert pyspng is not None  # checked by the callers
    try:
        return pyspng.load(data, mode)
    except RuntimeError as error:
        raise InputError(f"{path}: the image is damaged ({error}); copy the file again") from error


def read_label(path: str | Path, rows: int | None = None) -> np.ndarray:
    """A mask of class ids as uint8 [H, W], from a grey or palette image (the index is the id), never from colors.

    Arguments:
        rows: as for `read_image`.

    Raises:
        InputError: as `read_image`, and for masks with color channels or with ids above 255.
    """
    if pyspng is not None:
        data = read_bytes(path)
        if data.startswith(PNG_START) and data[24:26] == GREY_OF_8_BITS:
            _open(path, io.BytesIO(data)).close()
            return _read_png(path, data, "L", rows)
    labels = read_ids(path)
    if labels.size and (labels.max() > 255 or labels.min() < 0):
        wrong = labels.max() if labels.max() > 255 else labels.min()
        raise InputError(f"{path}: ids must be from 0 to 255, found {wrong}; is this an …_instanceIds.png file?")
    return labels.astype(np.uint8)


def is_color(path: str | Path) -> bool:
    """Whether a mask has color channels, from the header alone.

    Raises:
        InputError: as `image_size`.
    """
    with _open(path, path) as header:
        return header.mode in ("RGB", "RGBA")


def read_colors(path: str | Path) -> np.ndarray:
    """A mask of colors as uint8 RGB [H, W, 3], without its alpha channel.

    Raises:
        InputError: as `read_image`.
    """
    with _open(path, io.BytesIO(read_bytes(path))) as mask:
        try:
            return np.asarray(mask)[:, :, :3]
        except (OSError, SyntaxError) as error:
            raise InputError(f"{path}: the mask is damaged ({error}); copy the file again") from error


def read_ids(path: str | Path) -> np.ndarray:
    """A mask of ids of any size as integers [H, W], from a grey or palette image.

    Raises:
        InputError: as `read_image`, and for masks with color channels.
    """
    with _open(path, io.BytesIO(read_bytes(path))) as mask:
        if mask.mode not in ("1", "L", "P", "I", "I;16"):
            raise InputError(f"{path}: a mask holds one id per pixel, this is {mask.mode}; use the …_labelIds.png file")
        try:
            return np.asarray(mask)
        except (OSError, SyntaxError) as error:
            raise InputError(f"{path}: the mask is damaged ({error}); copy the file again") from error


def read_bytes(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _open(path: str | Path, file: str | Path | io.BytesIO) -> Image.Image:
    """Opens an image lazily and checks the size its header claims."""
    try:
        header = Image.open(file)
    except UnidentifiedImageError as error:
        start = read_bytes(path)[:32]
        known = next((what for begin, what in STARTS.items() if start.lstrip().startswith(begin)), None)
        what = known or (f"begins with {start[:12]!r}" if start else "is empty")
        raise InputError(f"{path}: not an image ({what}); replace the file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    height, width = _size(header)
    if height * width > MAX_PIXELS:
        header.close()
        raise InputError(f"{path}: {width}x{height} pixels is above the limit of {MAX_PIXELS}; shrink the image")
    return header


def _size(header: Image.Image) -> tuple[int, int]:
    width, height = header.size
    # Without "exif" in its info, `getexif` would decode a whole PNG to look for EXIF data after the pixels.
    applied = header.format in EXIF_FORMATS and "exif" in header.info
    rotated = applied and header.getexif().get(0x0112) in ROTATED
    return (width, height) if rotated else (height, width)
