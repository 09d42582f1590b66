"""What a run writes down of its course."""

import csv
import threading
from contextlib import closing
from pathlib import Path

from rich.progress import Progress, TaskID

from backbone.errors import InputError
from tools.io.console import console
from tools.run.config import AnyConfig, to_yaml


class Log:
    """`log.csv` (step, name, value) and TensorBoard events of a run, beside its `config.yaml`.

    Arguments:
        start: the step that the run goes on from; rows of later steps are dropped, as they will be written again.
    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, config: AnyConfig, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        self.folder = folder
        # TensorBoard writes in a thread. Its next call raises the thread's error again; that the thread prints a
        # traceback of its own would be once too often.
        self.excepthook, threading.excepthook = threading.excepthook, self._report
        path = folder / "log.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(to_yaml(config))
            rows = []
            if start and path.exists():
                with path.open(newline="") as file:
                    rows = [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) <= start]
            self.file = path.open("w", newline="")
            self.rows = csv.writer(self.file)
            self.rows.writerows([("step", "name", "value"), *rows])
            self.events = SummaryWriter(str(folder), purge_step=start + 1)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a row for each value.

        Raises:
            InputError: the disk is full.
        """
        try:
            for name, value in values.items():
                self.rows.writerow((step, name, f"{value:.8g}"))
                self.events.add_scalar(name, value, step)
            self.file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Writes what is still to be written.

        Raises:
            InputError: the disk is full.
        """
        try:
            with closing(self.events):
                self.file.close()
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            threading.excepthook = self.excepthook

    def _report(self, failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):
            self.excepthook(failure)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.folder}: cannot be written ({error.strerror}); free space there or choose another run.out"
        )


def show(bar: Progress, task: TaskID, done: int, steps: int, note: str) -> None:
    """Updates the bar; without a terminal prints a line, as bars are not drawn into files."""
    bar.update(task, note=note)
    if not console.is_terminal:
        console.out(f"step {done}/{steps}  {note}")
