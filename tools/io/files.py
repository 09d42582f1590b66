"""Files written whole: under a temporary name, then renamed; and short texts read."""

import os
from collections.abc import Callable
from pathlib import Path

from backbone.errors import InputError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside its own and renames it: a killed process leaves the old one whole.

    Raises:
        InputError: it cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); free space there or choose another folder"
        ) from error


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
