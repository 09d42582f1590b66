"""The weights file, `best.safetensors`: tensors, and in the header the description that all tools go by."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import backbone as backbones
from backbone.errors import InputError
from backbone.weights.description import read_header, write_header
from backbone.weights.names import is_name, resolve
from tools.io.files import replace_file
from tools.options import JOINT

if TYPE_CHECKING:
    from det import Detector
    from seg import Segmenter

LARGEST_GROWTH = 4
"""A file of half floats or bytes takes less than its model in memory, by this factor at most."""
Model = TypeVar("Model", bound=nn.Module)

PUBLISHED_HEADS = (
    "classifier.cbr.",
    "backbone.extra.",
    "decoder/decoder_conv0/",
    "BoxPredictor_",
    "lraspp_head.",
    "ssd_head.",
    "loc_1pw_",
    "neck.conv_t.",
)
"""How names begin that only published whole segmenters and detectors have."""


def save_model(path: Path, model: nn.Module, description: dict[str, Any]) -> None:
    """Writes weights with the description of their model: task, keywords of `create`, classes, normalisation.

    Raises:
        InputError: the file cannot be written; the old one is untouched.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_tensors(path, tensors, description)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Writes contiguous tensors on the CPU, as `save_model` does those of a model.

    Raises:
        InputError: the file cannot be written; the old one is untouched.
    """
    content = save(dict(tensors), write_header(description))
    replace_file(path, lambda temporary: temporary.write_bytes(content))  # save_file's are readable by their owner only


def load_description(path: str | Path) -> dict[str, Any]:
    """The description in the header of a file that `save_model` wrote, of this or an older format.

    Raises:
        InputError: the file is missing, damaged, of a newer format, or has bare weights without a description.
    """
    path = Path(resolve(path))
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; training writes best.safetensors into its run folder")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); give the best.safetensors of a run") from error
    description = read_header(metadata, str(path))
    if not description:
        raise InputError(f"{path}: holds bare weights without a description; give the best.safetensors of a run")
    return description


def find_description(path: str | Path) -> dict[str, Any] | None:
    """The description of a file that `save_model` wrote; None for any other weights file.

    Raises:
        InputError: the description is damaged or of a newer format.
    """
    path = resolve(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
    except (SafetensorError, OSError):
        return None
    return read_header(metadata, str(path)) or None


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    with safe_open(resolve(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def build(create: Callable[..., Model], path: str | Path, description: Mapping[str, Any]) -> Model:
    """The model that a weights file describes, its weights not loaded yet.

    It is built without memory first, as the description of a file that others made may name any size.

    Arguments:
        create: builds a model of the description's `model`, its keywords.

    Raises:
        InputError: there is no such model, or it is larger than the file.
    """
    try:
        with torch.device("meta"):
            outline = create(**description["model"])
    except InputError:
        raise
    except Exception as error:  # whatever parts of models raise for values that nobody would give
        raise InputError(
            f"{path}: the description in its header is of no model that can be built ({error}); give the file as it "
            "was written"
        ) from error
    needed = sum(tensor.nbytes for tensor in outline.state_dict().values())
    held = Path(resolve(path)).stat().st_size
    if needed > LARGEST_GROWTH * held:
        raise InputError(
            f"{path}: the description in its header is of a model of {needed / 1e6:.0f} MB, and the file has "
            f"{held / 1e6:.0f}; give the file as it was written"
        )
    return create(**description["model"])


def results_folder(weights: Path) -> Path:
    """Where results belong that are of weights: beside the file; of published weights by name, in runs/NAME."""
    return Path("runs") / weights if is_name(weights) else weights.parent


def load_initial_weights(model: "Segmenter | Detector", path: str, load_whole: Callable[[Any, str], str]) -> str:
    """Loads a file of the whole model where it has this model's head, else the backbone in it; says which."""
    description = find_description(path)
    if description is not None and description["task"] == JOINT:
        raise InputError(f"{path}: is a joint network; tools.split writes the single models that a run may start from")
    state = backbones.read_weights(path)
    own_head = {name for name in model.state_dict() if name.startswith("head.")}
    whole = bool(own_head & state.keys()) or any(name.startswith(PUBLISHED_HEADS) for name in state)
    if whole:
        layout = load_whole(model, path)
    else:
        layout = backbones.load_weights(model.backbone, path)
    return f"{'whole model' if whole else 'backbone'}, {layout} layout"
