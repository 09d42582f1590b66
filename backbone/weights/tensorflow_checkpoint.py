"""Reads TensorFlow's checkpoints (model.ckpt.index with model.ckpt.data-00000-of-00001), without TensorFlow.

TensorFlow is a package of 1.5 GB that pins other packages, while its format needs little code. The index is a sorted
table in LevelDB's format. Its keys are names, each stored as its difference from the one before; its values are
protocol buffers with a tensor's type, its shape and its place in the data.
"""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError

FILE = re.compile(r"\.(index|meta|data-\d+-of-\d+)$")
"""The ends of the names of a checkpoint's files."""

MAGIC = 0xDB4775248B80FB57
FLOATS = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 19: np.dtype("<f2")}
"""TensorFlow's codes of the types that weights have. Tensors of other types, such as step counters, are left out."""
AVERAGE = "/ExponentialMovingAverage"
SLOTS = re.compile(r"(^|/)(Momentum|RMSProp|Adam|Adagrad|Ftrl|biased|local_step|global_step|beta\d_power)(_\d+)?$")
"""What an optimiser keeps beside the weights."""


def prefix(path: Path) -> Path | None:
    """The common prefix of a checkpoint's files, given itself or the path of any of them; None if there is no index."""
    found = path.parent / FILE.sub("", path.name)
    return found if Path(f"{found}.index").is_file() else None


def read(prefix: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by TensorFlow's names, in torch's order of axes.

    A variable that has a moving average is replaced by it. Convolutions [k, k, C, C'] become [C', C, k, k], depthwise
    convolutions [k, k, C, M] become [C M, 1, k, k].

    Raises:
        InputError: a file of the checkpoint is missing or cut short, or a variable is stored in slices.
        ValueError, IndexError: the index is damaged or none.
    """
    entries = _table(Path(f"{prefix}.index").read_bytes())
    count = _message(entries.pop("")).get(1, [1])[0]
    files = [Path(f"{prefix}.data-{number:05}-of-{count:05}") for number in range(count)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise InputError(f"{prefix}.index: {missing[0]} is missing; keep a checkpoint's files beside each other")
    data = [np.memmap(file, np.uint8, mode="r") if file.stat().st_size else np.empty(0, np.uint8) for file in files]
    tensors = {}
    for name, value in entries.items():
        entry = _message(value)
        dtype = FLOATS.get(entry.get(1, [0])[0])
        if dtype is None or SLOTS.search(name):
            continue
        if 7 in entry:
            raise InputError(
                f"{prefix}.index: {name} is stored in slices; save the checkpoint again without a partitioner"
            )
        shape = [_message(size).get(1, [0])[0] for size in _message(entry.get(2, [b""])[0]).get(2, [])]
        shard, start, size = (entry.get(field, [0])[0] for field in (3, 4, 5))
        stored = data[shard][start : start + size]
        if len(stored) < size:
            raise InputError(f"{files[shard]}: ends before {name}; copy it again")
        tensors[name] = _as_torch(name, np.array(stored).view(dtype).reshape(shape))
    averages = {name.removesuffix(AVERAGE): tensor for name, tensor in tensors.items() if name.endswith(AVERAGE)}
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(AVERAGE)} | averages


def _as_torch(name: str, value: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(value.astype(np.float32))
    if tensor.ndim != 4:
        return tensor
    if "depthwise_weights" in name:
        return tensor.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1).contiguous()
    return tensor.permute(3, 2, 0, 1).contiguous()


def _table(table: bytes) -> dict[str, bytes]:
    """The entries of a LevelDB table, whose last 48 bytes say where the block that lists all blocks is."""
    footer = table[-48:]
    if int.from_bytes(footer[40:], "little") != MAGIC:
        raise ValueError("not the index of a TensorFlow checkpoint")
    at = 0
    for _ in range(2):  # skips the place of the meta-index, which is empty
        _, at = _varint(footer, at)
    entries = {}
    for _, place in _block(table, footer[at:40]):
        for name, value in _block(table, place):
            entries[name.decode()] = value
    return entries


def _block(table: bytes, place: bytes) -> list[tuple[bytes, bytes]]:
    """The names and values of one block; `place` encodes its offset and length in bytes."""
    start, at = _varint(place, 0)
    length, _ = _varint(place, at)
    block = table[start : start + length]
    if table[start + length] != 0:
        raise ValueError("its index is compressed, which TensorFlow never does")
    restarts = int.from_bytes(block[-4:], "little")
    entries, name, at = [], b"", 0
    while at < length - 4 * (restarts + 1):
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        size, at = _varint(block, at)
        name = name[:shared] + block[at : at + unshared]
        at += unshared
        entries.append((name, block[at : at + size]))
        at += size
    return entries


def _message(buffer: bytes) -> dict[int, list]:
    """The values of a protocol buffer, integers or bytes, by field number."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(buffer):
        key, at = _varint(buffer, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(buffer, at)
        else:
            if kind == 2:
                size, at = _varint(buffer, at)
            else:
                size = {1: 8, 5: 4}[kind]
            value, at = buffer[at : at + size], at + size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at `at`, seven bits per byte, low bits first, and the position after it."""
    value = shift = 0
    while True:
        byte = buffer[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
