"""Reads PaddlePaddle's .pdparams without running anything in them, and translates PaddleClas' MobileNetV3.

Such a file is a pickle of a dict of numpy arrays. What follows is a machine for the few instructions that one needs: it
knows arrays and plain values, can call nothing, and refuses every other instruction and name.
"""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.weights.translation import IMAGENET, Layout, highest, named, renamed

ENDING = ".pdparams"
SIGN = "blocks.0.bottleneck_conv.conv.weight"
NETWORKS = {15: "mobilenet_v3_large_randl", 11: "mobilenet_v3_small_paddle"}
"""Paddle's MobileNetV3s by their blocks: the first expands, and squeeze-and-excite has exactly a quarter of the
channels."""
NUMBERS = {name: np.dtype(f"<{name}") for name in ("f2", "f4", "f8", "i4", "i8")}
NAMES_OF_PARAMETERS = "StructuredToParameterName@@"
"""An entry that is a table of Paddle's own names; it is left out."""

RECONSTRUCT, NDARRAY, DTYPE, ENCODE, ORDERED = "reconstruct", "ndarray", "dtype", "encode", "ordered"
CALLABLE = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): DTYPE,
    ("_codecs", "encode"): ENCODE,
    ("collections", "OrderedDict"): ORDERED,
}
"""The only names that a file may mention, and what they are here: words, nothing that Python could call."""

PUSHED = {b")": (), b"N": None, b"\x88": True, b"\x89": False}
SHORT_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
INTEGERS = {b"J": "<i", b"K": "<B", b"M": "<H"}
TEXTS = {b"X": "<I", b"\x8c": "<B", b"\x8d": "<Q"}  # by the format of the length before them
BYTES = {b"B": "<I", b"C": "<B", b"\x8e": "<Q"}
PUTS, GETS = {b"q": "<B", b"r": "<I"}, {b"h": "<B", b"j": "<I"}


class _Name(str):
    """One of the words of `CALLABLE`, which no text in a file can be taken for."""


class _Refused(Exception):
    """The file has something that a table of arrays does not need."""


class _Array:
    """An array that is filled in by a later instruction."""

    value: np.ndarray | None = None


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pdparams file by Paddle's names.

    Raises:
        InputError: it holds something else than arrays of numbers.
        ValueError, IndexError, KeyError, TypeError, struct.error: it is damaged.
    """
    try:
        found = _Machine(path.read_bytes()).run()
    except _Refused as error:
        raise InputError(f"{path}: {error}; give a .pdparams of arrays alone") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no table of arrays; give the .pdparams of a whole model")
    found.pop(NAMES_OF_PARAMETERS, None)
    tensors = {}
    for name, array in found.items():
        if not isinstance(name, str) or not isinstance(array, _Array) or array.value is None:
            raise InputError(f"{path}: {name} is no array of numbers; give the .pdparams of a whole model")
        tensors[name] = torch.from_numpy(array.value.copy())
    return tensors


class _Machine:
    """Follows a pickle's instructions over a stack, marks in it, and a memo."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise ValueError("cut short")
        self.at += count
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode()

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        found, self.stack = self.stack[mark:], self.stack[:mark]
        return found

    def run(self) -> object:
        while (code := self.take(1)) != b".":
            if code in PUSHED:
                self.stack.append(PUSHED[code])
            elif code in INTEGERS:
                self.stack.append(self.number(INTEGERS[code]))
            elif code in TEXTS:
                self.stack.append(self.take(self.number(TEXTS[code])).decode())
            elif code in BYTES:
                self.stack.append(self.take(self.number(BYTES[code])))
            elif code in PUTS:
                self.memo[self.number(PUTS[code])] = self.stack[-1]
            elif code in GETS:
                self.stack.append(self.memo[self.number(GETS[code])])
            elif code in SHORT_TUPLES:
                count = SHORT_TUPLES[code]
                self.stack[-count:] = [tuple(self.stack[-count:])]
            else:
                self.step(code)
        return self.stack.pop()

    def step(self, code: bytes) -> None:
        """An instruction that is more than a value; the letters are the pickle format's own."""
        stack = self.stack
        if code == b"\x80":  # protocol
            self.take(1)
        elif code == b"\x95":  # length of a frame
            self.take(8)
        elif code == b"\x94":
            self.memo[len(self.memo)] = stack[-1]
        elif code == b"(":
            self.marks.append(len(stack))
        elif code == b"t":
            values = tuple(self.since_mark())
            self.stack.append(values)
        elif code == b"}":
            stack.append({})
        elif code == b"s":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif code == b"u":
            values = self.since_mark()
            self.stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif code == b"c":
            stack.append(_allowed(self.line(), self.line()))
        elif code == b"\x93":
            name, module = stack.pop(), stack.pop()
            stack.append(_allowed(module, name))
        elif code == b"R":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_made(function, arguments))
        elif code == b"b":
            state = stack.pop()
            _fill(stack[-1], state)
        else:
            raise _Refused(f"instruction {code!r} at byte {self.at - 1} is none that arrays need")


def _allowed(module: str, name: str) -> _Name:
    if (module, name) not in CALLABLE:
        raise _Refused(f"mentions {module}.{name}, which arrays do not need")
    return _Name(CALLABLE[module, name])


def _made(function: object, arguments: tuple) -> object:
    """What the instruction to call would give, for the few names that there are."""
    if not isinstance(function, _Name) or function == NDARRAY:
        raise _Refused("calls what is no function of numpy's")
    if function == RECONSTRUCT:
        return _Array()
    if function == ENCODE:  # how the oldest protocols write bytes
        return arguments[0].encode("latin1")
    if function == ORDERED:
        return {}
    if arguments[0] not in NUMBERS:
        raise _Refused(f"an array of type {arguments[0]!r}; only numbers are read ({', '.join(NUMBERS)})")
    return NUMBERS[arguments[0]]


def _fill(target: object, state: tuple) -> None:
    """Gives an array its shape and numbers; a type's own state says at most that it is little-endian."""
    if isinstance(target, np.dtype):
        if state[1] != "<":
            raise _Refused(f"an array of byte order {state[1]!r}; only little-endian ones are read")
        return
    _, shape, dtype, fortran, data = state
    if not isinstance(target, _Array) or not isinstance(dtype, np.dtype):
        raise _Refused("gives a state to what is no array")
    target.value = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def recognise(state: dict[str, Tensor], source: str) -> Layout | None:
    """The layout of a state dict if it is of PaddleClas' MobileNetV3, else None.

    Two things of Paddle's are folded into weights. Its gate is clip(0.2 x + 0.5), which is ours of 1.2 x. Its dropout
    multiplies by 0.8 in evaluation rather than by 1 / 0.8 in training.
    """
    if SIGN not in state:
        return None
    names = conv_norm("conv", "stem") | conv_norm("last_second_conv", "last")
    names |= {"last_conv.weight": "hidden.weight", "fc.weight": "output.weight", "fc.bias": "output.bias"}
    for number in range(1, 2 + highest(r"blocks\.(\d+)\.", state)):
        theirs, ours = f"blocks.{number - 1}", f"blocks.{number}"
        for layer, part in (("expand_conv", "expand"), ("bottleneck_conv", "depthwise"), ("linear_conv", "project")):
            names |= conv_norm(f"{theirs}.{layer}", f"{ours}.{part}")
        names |= named(f"{theirs}.mid_se.conv1", f"{ours}.squeeze_excite.reduce")
        names |= named(f"{theirs}.mid_se.conv2", f"{ours}.squeeze_excite.expand")
    ours = finished(renamed(state, names))
    if "hidden.weight" in ours:
        ours["hidden.weight"] = ours["hidden.weight"].flatten(1)  # a 1x1 convolution of one pixel, without a bias
        ours["hidden.bias"] = torch.zeros(len(ours["hidden.weight"]))
    if "output.weight" in ours:
        ours["output.weight"] = 0.8 * ours["output.weight"].T.contiguous()
    return Layout("paddle", ours, 1e-5, "symmetric", *IMAGENET)


def finished(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state in our names with what Paddle's computes otherwise folded in, and what its norms lack added."""
    ours = dict(state)
    for key, value in state.items():
        if re.search(r"\.squeeze_excite\.expand\.", key):
            ours[key] = value * 1.2
        elif key.endswith(".norm.weight"):
            ours[f"{key.removesuffix('weight')}num_batches_tracked"] = torch.tensor(0)
    return ours


def conv_norm(theirs: str, ours: str, *, convolution: str = "conv", norm: str = "bn") -> dict[str, str]:
    """The names of a convolution and a norm of Paddle's -> those of our `ConvNormAct`."""
    values = {"weight": "weight", "bias": "bias", "_mean": "running_mean", "_variance": "running_var"}
    return {f"{theirs}.{convolution}.weight": f"{ours}.conv.weight"} | {
        f"{theirs}.{norm}.{value}": f"{ours}.norm.{mine}" for value, mine in values.items()
    }
