"""Lists of images that a training leaves out: the checks of data sets write them, `data.leave_out` reads them."""

from collections.abc import Iterable
from pathlib import Path

from backbone.errors import InputError
from tools.io.files import replace_file


def write_leave_out(path: Path, root: Path, images: Iterable[Path]) -> None:
    """Writes a list of images, one a line, relative to the data set's folder where they lie in it.

    Raises:
        InputError: it cannot be written.
    """
    root = root.resolve()
    whole = sorted({image.resolve() for image in images})
    names = [image.relative_to(root) if image.is_relative_to(root) else image for image in whole]
    text = "".join(f"{name.as_posix()}\n" for name in names)
    replace_file(path, lambda part: part.write_text(text))


def read_leave_out(path: str | None, root: str) -> frozenset[Path]:
    """The images in a list, below the data set's folder; none where there is no list.

    Raises:
        InputError: the list cannot be read.
    """
    if path is None:
        return frozenset()
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list of images to leave out cannot be read ({error})") from error
    return frozenset(Path(root) / line.strip() for line in lines if line.strip() and not line.startswith("#"))
