"""The images that are predicted, and what their files are called."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from backbone.data.images import IMAGE_SUFFIXES, image_files
from backbone.errors import InputError
from tools.streams.sources import is_url


class Item(NamedTuple):
    """An image of the source, or a frame of a video."""

    name: str  # below the source's folder, with /; of a frame, the video's
    stem: str  # of its files, below the folders of kinds
    image_id: int  # COCO's
    path: Path | None = None  # None for a frame
    frame: int | None = None  # index in the video, from 0
    seconds: float | None = None  # since the video's first frame

    @property
    def key(self) -> str:
        """Tells it from all others of its source."""
        return self.name if self.frame is None else f"{self.name}:{self.frame}"

    @property
    def suffix(self) -> str:
        """Of its drawn image: lossless where the source is."""
        lossy = self.path is None or self.path.suffix.lower() in (".jpg", ".jpeg")
        return ".jpg" if lossy else ".png"


def frame_item(video: str, frame: int, seconds: float) -> Item:
    """The item of a video's frame."""
    return Item(video, f"{frame:06}", frame, None, frame, seconds)


def find_images(source: str) -> list[Item] | None:
    """The images that the user named; None where it is a video.

    Raises:
        InputError: the source is a camera or a URL, is not there, or holds no image.
    """
    path = Path(source)
    if is_url(source) or (source.isdecimal() and not path.exists()):
        raise InputError(f"--source {source}: cameras and streams have no end; use tools.video with --save")
    if path.is_dir():
        return _named(source, image_files(path), path)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".txt":
            return _named(source, _read_list(path), path.parent)
        return _named(source, [path], path.parent) if suffix in IMAGE_SUFFIXES else None
    if glob.has_magic(source):
        matches = sorted(Path(match) for match in glob.glob(source, recursive=True))
        parts = path.parts
        fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        images = [match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES and match.is_file()]
        return _named(source, images, Path(*parts[:fixed]))
    raise InputError(f"--source {source}: no such file; give an image, a folder, a quoted glob, a list .txt or a video")


def _read_list(path: Path) -> list[Path]:
    """The paths in a text of one per line; relative ones are relative to its folder."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--source {path}: cannot be read ({error}); give a text of one image per line") from error
    found = [path.parent / line.strip() for line in lines if line.strip()]
    if repeated := [str(name) for name, count in Counter(found).items() if count > 1]:
        raise InputError(f"--source {path}: names {repeated[0]} twice; name each image once")
    return found


def _named(source: str, paths: Sequence[Path], base: Path) -> list[Item]:
    if not paths:
        raise InputError(f"--source {source}: holds no image; known are {', '.join(IMAGE_SUFFIXES)}")
    return name_images(paths, base)


def name_images(paths: Sequence[Path], base: Path) -> list[Item]:
    """Items whose names mirror the folders of their images.

    Images that differ in their suffix only keep it in the stems of their files, so that none replaces the other's.

    Arguments:
        base: names are relative to it, or where an image lies elsewhere, to the nearest folder that has all.
    """
    absolute = [os.path.abspath(path) for path in paths]
    root = os.path.abspath(base)
    if any(os.path.commonpath([root, path]) != root for path in absolute):
        root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    names = [PurePosixPath(Path(os.path.relpath(path, root)).as_posix()) for path in absolute]
    stems = Counter(_folded(name.with_suffix("")) for name in names)
    # A full name may be another's stem: a.png.png and a.png beside a.jpg.
    full = {_folded(name) for name in names}
    numbers = [int(name.stem) if re.fullmatch(r"[0-9]{1,18}", name.stem) else None for name in names]
    are_ids = None not in numbers and len(set(numbers)) == len(numbers)
    items = []
    for position, (name, path, number) in enumerate(zip(names, paths, numbers, strict=True), start=1):
        stem = name.with_suffix("")
        clear = stems[_folded(stem)] == 1 and _folded(stem) not in full
        image_id = number if are_ids and number is not None else position
        items.append(Item(str(name), str(stem if clear else name), image_id, path))
    return items


def _folded(name: PurePosixPath) -> str:
    """The name as file systems that do not tell A from a see it."""
    return str(name).casefold()
