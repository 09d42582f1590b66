"""Files written whole: under a temporary name, then renamed; and short texts read."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from backbone.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""How the system says that a disk, a quota or a file's size is used up."""


class NoSpace(InputError):
    """A file was not written because the disk, or the user's share of it, is full; the old file is untouched."""


def replace_file(path: Path, write: Callable[[Path], object], *, previous: Path | None = None) -> None:
    """Writes a file under a temporary name beside its own and renames it: a killed process leaves the old one whole.

    Arguments:
        previous: another name in the same folder, under which the old file is kept. A process that is killed between
            the two renames leaves the old file under this name and none under its own.
    Raises:
        NoSpace: the disk is full; the old file is untouched.
        InputError: it cannot be written; the old file is untouched.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            if previous is not None and path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def temporary_name(path: Path) -> Path:
    """Where `replace_file` writes before it renames; a killed process may leave it behind."""
    return path.with_name(f".{path.name}.part")


def remove_strays(folder: Path) -> None:
    """Deletes the temporary files that killed processes left in a folder; no other process may be writing there."""
    for stray in folder.glob(temporary_name(Path("*")).name):
        stray.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> InputError:
    """What to raise for a file that could not be written: `NoSpace`, or another `InputError`."""
    kind = NoSpace if error.errno in FULL else InputError
    return kind(f"{path}: cannot be written ({error.strerror or error}); free space there or choose another folder")


def open_folder(path: Path) -> None:
    """Makes a folder for results, before the long work that leads to them.

    Raises:
        InputError: it cannot be made, or nothing can be written there.
    """
    replace_file(path / "writable", lambda temporary: temporary.touch())
    (path / "writable").unlink()


def read_class_names(path: Path) -> list[str]:
    """The class names in a text of one per line.

    Raises:
        InputError: the file is missing or no text.
    """
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a text of one class name per line") from error


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a loss of power; where folders cannot be opened (Windows) the system sees to it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
