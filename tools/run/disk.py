"""What a run does when its disk is full: it goes on, says so, and remembers what was not written."""

from collections.abc import Callable
from pathlib import Path

from tools.io.console import console
from tools.io.files import NoSpace

NOT_WRITTEN = 21
"""Exit code of a run that made all its steps, but not all of its files, as the disk was full."""


class Disk:
    """Writes a run's files.

    Attributes:
        missing: the files whose newest content was not written.
    """

    def __init__(self) -> None:
        self.missing: set[Path] = set()

    def write(self, path: Path, write: Callable[[], object]) -> bool:
        """Calls `write`, which writes the file `path`; whether there was space for it.

        Raises:
            InputError: what `write` raises but `NoSpace`.
        """
        try:
            write()
        except NoSpace as error:
            self.lack(path, error)
            return False
        self.missing.discard(path)
        return True

    def lack(self, path: Path, error: NoSpace) -> None:
        """Remembers that there was no space for a file, and says so where it is news."""
        if path not in self.missing:
            console.out(f"warning: {error}; the run goes on")
        self.missing.add(path)

    def summary(self) -> str | None:
        """What is missing at the end, in a line."""
        if not self.missing:
            return None
        folder, names = next(iter(self.missing)).parent, ", ".join(path.name for path in sorted(self.missing))
        return f"the disk was full: {folder} lacks the newest {names}; free space, then --resume"
