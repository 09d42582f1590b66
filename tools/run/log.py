"""What a run writes down of its course."""

import csv
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import Progress, TaskID

from backbone.errors import InputError
from tools.io.console import console
from tools.io.files import NoSpace, replace_file, unwritable
from tools.run.config import AnyConfig, to_yaml
from tools.run.disk import Disk
from tools.run.trackers import Trackers

EVENTS = "events"
"""What TensorBoard's files are called in messages."""


class Log:
    """`log.csv` (step, name, value) of a run, beside its `config.yaml`, and what `run.trackers` names.

    Rows that the disk has no space for are kept and written as soon as it has.

    Arguments:
        start: the step that the run goes on from; rows of later steps are dropped, as they will be written again.
        disk: is told where there is no space.
    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, config: AnyConfig, start: int, disk: Disk) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        self.folder, self.path, self.disk = folder, folder / "log.csv", disk
        self.pending: list[tuple[int, str, str]] = []
        self.trackers = Trackers(folder, config)
        # TensorBoard writes in a thread. Its next call raises the thread's error again; that the thread prints a
        # traceback of its own would be once too often.
        self.excepthook, threading.excepthook = threading.excepthook, self._report
        try:
            text = to_yaml(config)
            replace_file(folder / "config.yaml", lambda part: part.write_text(text))
            rows: list[Sequence[object]] = [("step", "name", "value")]
            if start and self.path.exists():
                with self.path.open(newline="") as file:
                    rows += [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) <= start]
            replace_file(self.path, lambda part: part.write_bytes(_as_csv(rows)))
            self.file = self.path.open("ab", buffering=0)
            self.size = self.path.stat().st_size
            self.events = (
                SummaryWriter(str(folder), purge_step=start + 1) if "tensorboard" in config.run.trackers else None
            )
        except OSError as error:
            raise unwritable(folder, error) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a row for each value.

        Raises:
            InputError: the folder has gone, or nothing can be written there for another reason than a full disk.
        """
        if not self.path.exists():
            raise InputError(f"{self.path}: has gone; bring the run's folder back, or start a new run")
        self.pending += [(step, name, f"{value:.8g}") for name, value in values.items()]
        self.disk.write(self.path, self._append)
        self.trackers.log(step, values)
        # What is lost of the events stays lost, and the writer is dead.
        if self.events is not None and self.folder / EVENTS not in self.disk.missing:
            try:
                for name, value in values.items():
                    self.events.add_scalar(name, value, step)
            except OSError as error:
                self._lose_events(error)

    def draw(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Shows images, uint8 RGB [H, W, 3], by name, where there are TensorBoard or trackers to show them."""
        self.trackers.draw(step, images)
        if self.events is not None and self.folder / EVENTS not in self.disk.missing:
            try:
                for name, image in images.items():
                    self.events.add_image(name, image, step, dataformats="HWC")
            except OSError as error:
                self._lose_events(error)

    def close(self) -> None:
        """Writes what is still to be written."""
        try:
            self.file.close()
            self.trackers.close()
            if self.events is not None:
                self.events.close()
        except OSError as error:
            self._lose_events(error)
        finally:
            threading.excepthook = self.excepthook

    def _append(self) -> None:
        """Writes the pending rows whole or not at all.

        Raises:
            InputError: they cannot be written.
        """
        text = _as_csv(self.pending)
        try:
            written = self.file.write(text)
            if written != len(text):  # the part that there was space for
                self.file.write(text[written:])  # raises what is wrong
            self.size += len(text)
            self.pending.clear()
        except OSError as error:
            self.file.truncate(self.size)
            raise unwritable(self.path, error) from error

    def _lose_events(self, error: OSError) -> None:
        fault = unwritable(self.folder / EVENTS, error)
        if not isinstance(fault, NoSpace):
            raise fault from error
        self.disk.lack(self.folder / EVENTS, fault)

    def _report(self, failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):
            self.excepthook(failure)


def _as_csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def show(bar: Progress, task: TaskID, done: int, steps: int, note: str) -> None:
    """Updates the bar; without a terminal prints a line, as bars are not drawn into files."""
    bar.update(task, note=note)
    if not console.is_terminal:
        console.out(f"step {done}/{steps}  {note}")
