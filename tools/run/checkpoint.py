"""`last.pt`, with all that a run needs to go on."""

from pathlib import Path
from typing import Any

import torch

from backbone.errors import InputError
from tools.io.files import replace_file


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a training state that `load_state` reads back; only tensors, numbers, text, lists and dicts."""
    replace_file(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Reads a training state.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: nothing to resume; start the run without --resume")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises for a damaged file
        raise InputError(
            f"{path}: damaged ({str(error).splitlines()[0]}); start again from best.safetensors"
        ) from error
