"""One trial of a sweep: a training in a process of its own, whose scores are read from its log."""

import contextlib
import csv
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from backbone.errors import InputError
from tools.io.console import console
from tools.run.lock import lock_folder

POLL_S = 0.2
OUTPUT = "output.txt"
"""What a trial prints, in its folder."""


class Ended(NamedTuple):
    """How a training ended."""

    code: int  # its exit code, negative for the signal that killed it
    scores: dict[int, float]  # by step
    last_line: str  # that it printed


def train(
    task: str, arguments: Sequence[str], folder: Path, score: str, stops: Callable[[dict[int, float]], bool]
) -> Ended:
    """Trains into a folder, or goes on with the training that is there.

    Arguments:
        task: of `space.KINDS`.
        arguments: config and overrides, but run.out.
        score: the metric of the evaluations, as the log names it.
        stops: called with the scores by step whenever there is a new one, and now and then; True ends the training.
    """
    wait_until_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"tools.train_{task}", *arguments, f"run.out={folder}"]
    if (folder / "config.yaml").is_file():
        command.append("--resume")
    log = folder / "log.csv"
    told = False
    with (folder / OUTPUT).open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if not told and stops(read_scores(log, score)):
                    process.terminate()  # it makes its step and saves
                    told = True
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    lines = (folder / OUTPUT).read_text(errors="replace").strip().splitlines()
    return Ended(process.returncode, read_scores(log, score), lines[-1] if lines else "")


def read_scores(log: Path, score: str) -> dict[int, float]:
    """The finite scores in a run's log, by step; only of lines that are written to their end."""
    if not log.is_file():
        return {}
    text = log.read_text()
    rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    scores = {int(row[0]): float(row[2]) for row in rows if len(row) == 3 and row[1] == f"val/{score}"}
    return {step: value for step, value in scores.items() if math.isfinite(value)}


def wait_until_free(folder: Path) -> None:
    """Waits while the training of a sweep that was killed still runs there."""
    said = False
    while folder.is_dir():
        try:
            with lock_folder(folder, is_main=True):
                return
        except InputError as error:
            if not said:
                console.out(f"{error}; this sweep waits for it")
            said = True
            time.sleep(1)
