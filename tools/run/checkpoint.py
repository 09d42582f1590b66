"""`last.pt`, with all that a run needs to go on."""

from pathlib import Path
from typing import Any

import torch

from backbone.errors import InputError
from tools.io.files import replace_file


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a training state that `load_state` reads back; only tensors, numbers, text, lists and dicts.

    Raises:
        InputError: it cannot be written; the old file is untouched.
    """

    def write(temporary: Path) -> None:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch's own writer raises when the disk is full
            raise OSError("the disk is full or takes no file of this size") from error

    replace_file(path, write)


def load_state(path: Path) -> dict[str, Any]:
    """Reads a training state.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: nothing to resume; start the run without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file, some advising to let pickled code run
        raise _damaged(path) from error
    if not isinstance(state, dict) or not {"step", "model", "optimizer", "config"} <= state.keys():
        raise _damaged(path)
    return state


def _damaged(path: Path) -> InputError:
    best = path.with_name("best.safetensors")
    return InputError(f"{path}: damaged, or no state of a run; start a new run, from weights={best} if it is there")
