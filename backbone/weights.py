"""Reads weight files and loads them strictly, translating published layouts to ours at the door."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from backbone.errors import InputError
from backbone.network import Classifier, Network

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def read_weights(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, of a .pt or .pth file (also below "model" or "state_dict"), or of a mapping.

    Raises:
        InputError: the file is missing, unreadable, holds something else than tensors, or would run code when loaded.
    """
    if isinstance(source, Mapping):
        state = dict(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise InputError(f"{path}: no such weights file; give the path of a .safetensors, .pt or .pth file")
        try:
            if path.suffix == ".safetensors":
                state = load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the readers raise for a damaged or hostile file
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: cannot be read as weights ({reason}); is the file complete?") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = dict(state[key])
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{_name(source)}: holds no table of tensors; give a state dict of the whole model")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, unbuilt: frozenset[str] = frozenset()
) -> None:
    """Copies `state` into `model`; every name and shape must agree, but for names in `unbuilt`, which may be left over.

    Raises:
        InputError: names the missing, unexpected and misshapen tensors; the model is then unchanged.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own and key not in unbuilt]
    misshapen = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if faults:
        raise InputError(f"{source}: does not fit this model: {'; '.join(faults)}; build the model the weights are of")
    model.load_state_dict({key: state[key] for key in own})


def torchvision_names(network: Network) -> dict[str, str]:
    """torchvision's names of the body (`features.…`) -> ours, for the whole architecture, built or not."""
    names = _conv_norm("features.0", "stem")
    for number, block in enumerate(network.plan.blocks, start=1):
        theirs, ours, part = f"features.{number}.block", f"blocks.{number}", 0
        if block.expand_kernel:
            names |= _conv_norm(f"{theirs}.{part}", f"{ours}.expand")
            part += 1
        names |= _conv_norm(f"{theirs}.{part}", f"{ours}.depthwise")
        part += 1
        if block.squeezed:
            for layer, mine in (("fc1", "reduce"), ("fc2", "expand")):
                for value in ("weight", "bias"):
                    names[f"{theirs}.{part}.{layer}.{value}"] = f"{ours}.squeeze_excite.{mine}.{value}"
            part += 1
        names |= _conv_norm(f"{theirs}.{part}", f"{ours}.project")
    return names | _conv_norm(f"features.{len(network.plan.blocks) + 1}", "last")


def load_weights(model: Network | Classifier, source: str | Path | Mapping[str, Tensor]) -> str:
    """Loads a published or own checkpoint, recognised by its names, and returns the name of its layout.

    A bare network takes the body out of a classifier's checkpoint; a network cut at its deepest tap leaves what lies
    beyond it. Layouts: ours, and torchvision's classification models.

    Raises:
        InputError: the layout is unknown, or a tensor is missing, left over or of another shape.
    """
    state = read_weights(source)
    network = model.backbone if isinstance(model, Classifier) else model
    names = torchvision_names(network)
    layers = {"hidden": "classifier.0", "output": "classifier.3"}
    head = {f"{theirs}.{value}": f"{ours}.{value}" for ours, theirs in layers.items() for value in ("weight", "bias")}
    prefix = "backbone." if isinstance(model, Classifier) else ""

    if "features.0.0.weight" in state:
        layout = "torchvision"
        translation = {theirs: prefix + ours for theirs, ours in names.items()} | head
        state = {translation.get(key, key): value for key, value in state.items()}
    elif "stem.conv.weight" in state or "backbone.stem.conv.weight" in state:
        layout = "taproot"
        state = {
            key if key in head.values() else prefix + key.removeprefix("backbone."): value
            for key, value in state.items()
        }
    else:
        first = next(iter(state), None)
        raise InputError(f"{_name(source)}: unknown layout (first name {first!r}); known: torchvision's and ours")

    unbuilt = {prefix + name for name in names.values()}
    if isinstance(model, Network):
        unbuilt |= set(head.values())
    load_strictly(model, state, source=_name(source), unbuilt=frozenset(unbuilt))
    return layout


def _conv_norm(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.0.weight": f"{ours}.conv.weight"} | {f"{theirs}.1.{key}": f"{ours}.norm.{key}" for key in NORM}


def _name(source: str | Path | Mapping[str, Tensor]) -> str:
    return "state dict" if isinstance(source, Mapping) else str(source)
