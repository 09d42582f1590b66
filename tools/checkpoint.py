"""Writes and reads a run's files: `last.pt`, with all that is needed to go on, and `best.safetensors`, the model."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import backbone as backbones
from backbone.errors import InputError
from backbone.weights import KEY

PUBLISHED_HEADS = ("classifier.cbr.", "backbone.extra.", "decoder/decoder_conv0/", "BoxPredictor_")
"""How names begin that only published whole segmenters and detectors have."""


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
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
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); free or choose the place") from error


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


def save_model(path: Path, model: nn.Module, description: dict[str, Any]) -> None:
    """Writes weights with the description of their model: task, keywords of `create`, classes, normalisation."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {KEY: json.dumps(description)}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_description(path: str | Path) -> dict[str, Any]:
    """The description in the header of a file that `save_model` wrote.

    Raises:
        InputError: the file is missing, damaged, or was not written by this suite's training tools.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; training writes best.safetensors into its run folder")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); give the best.safetensors of a run") from error
    if KEY not in metadata:
        raise InputError(f"{path}: holds bare weights without a description; give the best.safetensors of a run")
    try:
        description = json.loads(metadata[KEY])
    except ValueError:
        description = None
    if not isinstance(description, dict):
        raise InputError(f"{path}: the description in its header cannot be read; give the file as it was written")
    return description


def find_description(path: str | Path) -> dict[str, Any] | None:
    """The description of a file that `save_model` wrote; None for any other weights file."""
    try:
        return load_description(path)
    except InputError:
        return None


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def load_initial_weights(model: nn.Module, path: str, load_whole: Callable[[nn.Module, str], str]) -> str:
    """Loads a file of the whole model where it has this model's head, else the backbone in it; says which."""
    state = backbones.read_weights(path)
    own_head = {name for name in model.state_dict() if name.startswith("head.")}
    whole = bool(own_head & state.keys()) or any(name.startswith(PUBLISHED_HEADS) for name in state)
    if whole:
        layout = load_whole(model, path)
    else:
        layout = backbones.load_weights(model.backbone, path)
    return f"{'whole model' if whole else 'backbone'}, {layout} layout"
