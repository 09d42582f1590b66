"""Reads Keras' weight files of its MobileNetV1, V2 and V3 (.h5, .weights.h5).

As Keras does, this module goes by the order of layers, since their names differ between Keras' versions: it numbers the
layers of each kind and assigns them to the network's layers in that order.
"""

import re
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.weights.translation import INCEPTION, Layout, highest

ENDINGS = (".h5", ".hdf5")
NORM_VALUES = ("weight", "bias", "running_mean", "running_var")  # Keras' gamma, beta, moving mean, moving variance


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, or of a whole model's file, in torch's order of axes.

    They are named `keras.<kind>.<number>.<value>`: the kinds are conv, depthwise, norm and dense, each numbered from 0
    in the model's order.

    Raises:
        InputError: h5py is not installed, or the file holds other layers.
        OSError: the file cannot be read as HDF5.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: Keras' files need h5py; install it with the extra keras: .[keras]") from error
    with h5py.File(path) as file:
        root: Any = file.get("model_weights", file)
        if "layer_names" in root.attrs:
            layers = [_legacy_layer(root[_text(name)]) for name in root.attrs["layer_names"]]
        elif "layers" in root:
            layers = [_layer(root["layers"][name]) for name in sorted(root["layers"], key=_place)]
        else:
            raise InputError(f"{path}: an HDF5 file without Keras' layers; give what save_weights wrote")
    state: dict[str, Tensor] = {}
    numbers = {"conv": 0, "depthwise": 0, "norm": 0, "dense": 0}
    for values in filter(None, layers):
        kind, tensors = _as_torch(path, values)
        for name, tensor in tensors.items():
            state[f"keras.{kind}.{numbers[kind]}.{name}"] = tensor
        numbers[kind] += 1
    return state


def translate(state: dict[str, Tensor], source: str) -> Layout:
    """What `read` gave, in our names.

    Keras' MobileNetV1 pads odd maps unlike the other two: outputs are equal only for sides that are multiples of 32.

    Raises:
        InputError: the layers are not those of a MobileNet.
    """
    convs = deque(range(1 + highest(r"keras\.conv\.(\d+)\.", state)))
    norms = deque(range(1 + highest(r"keras\.norm\.(\d+)\.", state)))
    num_blocks = 1 + highest(r"keras\.depthwise\.(\d+)\.", state)
    ours: dict[str, Tensor] = {}

    def biased() -> bool:
        return bool(convs) and f"keras.conv.{convs[0]}.bias" in state

    def conv_norm(part: str, depthwise: int | None = None) -> None:
        theirs = f"keras.conv.{convs.popleft()}" if depthwise is None else f"keras.depthwise.{depthwise}"
        ours[f"{part}.conv.weight"] = state[f"{theirs}.weight"]
        norm = norms.popleft()
        for value in NORM_VALUES:
            ours[f"{part}.norm.{value}"] = state[f"keras.norm.{norm}.{value}"]
        ours[f"{part}.norm.num_batches_tracked"] = torch.tensor(0)

    def with_bias(theirs: str, part: str, *, flat: bool) -> None:
        weight = state[f"{theirs}.weight"]
        ours[f"{part}.weight"] = weight.flatten(1) if flat else weight
        ours[f"{part}.bias"] = state[f"{theirs}.bias"]

    plain = sum(f"keras.conv.{number}.bias" not in state for number in convs)
    separable = plain == num_blocks + 1  # V1: besides the stem only the projections
    try:
        conv_norm("stem")
        for number in range(1, num_blocks + 1):
            block = f"blocks.{number}"
            if number > 1 and not separable:
                conv_norm(f"{block}.expand")
            conv_norm(f"{block}.depthwise", number - 1)
            if biased():
                with_bias(f"keras.conv.{convs.popleft()}", f"{block}.squeeze_excite.reduce", flat=False)
                with_bias(f"keras.conv.{convs.popleft()}", f"{block}.squeeze_excite.expand", flat=False)
            conv_norm(f"{block}.project")
        if not separable:
            conv_norm("last")
        if len(convs) == 2:
            with_bias(f"keras.conv.{convs.popleft()}", "hidden", flat=True)
        if convs:
            with_bias(f"keras.conv.{convs.popleft()}", "output", flat=True)
        elif "keras.dense.0.weight" in state:
            with_bias("keras.dense.0", "output", flat=True)
    except (IndexError, KeyError) as error:
        raise InputError(f"{source}: Keras' layers, but not those of its MobileNetV1, V2 or V3") from error
    if convs or norms:
        raise InputError(f"{source}: Keras' layers, but more than its MobileNetV1, V2 or V3 have; give that part alone")
    return Layout("keras", ours, 1e-3, "same", *INCEPTION)


def _legacy_layer(group) -> list[np.ndarray]:
    return [np.asarray(group[_text(name)]) for name in group.attrs["weight_names"]]


def _layer(group) -> list[np.ndarray]:
    values = group.get("vars", {})
    return [np.asarray(values[name]) for name in sorted(values, key=int)]


def _place(name: str) -> tuple[str, int]:
    """Layers of a kind are named conv2d, conv2d_1, conv2d_2, …"""
    found = re.search(r"_(\d+)$", name)
    return (name[: found.start()], int(found[1])) if found else (name, 0)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _as_torch(path: Path, values: list[np.ndarray]) -> tuple[str, dict[str, Tensor]]:
    """A layer's kind, told by the shapes of its values, and its tensors in torch's order of axes."""
    tensors = [torch.from_numpy(value.astype(np.float32)) for value in values]
    first = tensors[0]
    names = ("weight", "bias")
    if len(tensors) == 4 and all(tensor.ndim == 1 for tensor in tensors):
        kind, names = "norm", NORM_VALUES
    elif first.ndim == 4 and first.shape[3] == 1:  # [k, k, C, 1]
        kind, tensors[0] = "depthwise", first.permute(2, 3, 0, 1)
    elif first.ndim == 4:  # [k, k, C, C']
        kind, tensors[0] = "conv", first.permute(3, 2, 0, 1)
    elif first.ndim == 2:  # [C, C']
        kind, tensors[0] = "dense", first.T
    else:
        shapes = ", ".join(str(list(value.shape)) for value in values)
        raise InputError(f"{path}: a layer with values of shapes {shapes} is not of Keras' MobileNets")
    return kind, {name: tensor.contiguous() for name, tensor in zip(names, tensors, strict=False)}
