"""`last.pt`, with all that a run needs to go on, and `last-1.pt`, the one before.

A checkpoint is a zip archive of torch's, in which every record has a checksum. torch writes the checksums and does not
look at them; `load_state` does, so that a file that a disk or a copy damaged is never taken for a state.
"""

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from backbone.errors import InputError
from backbone.weights.loading import is_compressed
from tools.io.files import replace_file

LAST, PREVIOUS = "last.pt", "last-1.pt"
"""Names in a run's folder: the newest state, and the one before it."""


class Saved(NamedTuple):
    """A state that was read, and from where."""

    state: dict[str, Any]
    path: Path
    fault: str | None  # what is wrong with the newest state, if this is the one before it


def save_state(path: Path, state: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Writes a training state that `load_state` reads back; only tensors, numbers, text, lists and dicts.

    Arguments:
        keep_previous: keep the file that is replaced as last-1.pt.
    Raises:
        NoSpace: the disk is full; the old file is untouched.
        InputError: it cannot be written; the old file is untouched.
    """
    if not path.parent.is_dir():  # made anew, an empty folder would hide that the run's has gone
        raise InputError(f"{path.parent}: the run's folder has gone; bring it back, or start a new run")

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch's own writer, while it handles the error of ours
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    replace_file(path, write, previous=path.with_name(PREVIOUS) if keep_previous else None)


def load_newest(folder: Path) -> Saved:
    """Reads the newest state of a run that is whole.

    Raises:
        InputError: there is none, or all are damaged.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not previous.is_file():
        return Saved(load_state(last), last, None)
    try:
        return Saved(load_state(last), last, None)
    except InputError as error:
        fault = "missing" if not last.is_file() else "damaged"
        try:
            return Saved(load_state(previous), previous, fault)
        except InputError:
            raise error from None


def load_state(path: Path) -> dict[str, Any]:
    """Reads a training state, after its checksums.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: nothing to resume; start the run without --resume")
    try:
        if is_compressed(path):
            raise _damaged(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise _damaged(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # both raise many kinds for a damaged file, some advising to let pickled code run
        raise _damaged(path) from error
    if not isinstance(state, dict) or not {"step", "model", "optimizer", "config"} <= state.keys():
        raise _damaged(path)
    return state


def exists(folder: Path) -> bool:
    """Whether a run has saved a state in this folder."""
    return any(os.path.lexists(folder / name) for name in (LAST, PREVIOUS))


def _damaged(path: Path) -> InputError:
    best = path.with_name("best.safetensors")
    return InputError(f"{path}: damaged, or no state of a run; start a new run, from weights={best} if it is there")
