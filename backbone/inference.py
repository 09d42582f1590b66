"""Prepares models and images for inference: folded norms, the torch engine, the network's input for a frame."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbone.blocks import ConvNormAct
from backbone.errors import InputError
from backbone.fused import can_fuse, fuse

SIDES = (32, 16384)
"""Smallest and largest side of a network's input that can be asked for, in pixels."""
MULTIPLE = 32
"""Sides that follow from a longer side are multiples of the coarsest stride, so that no feature map has half a cell."""

Size = Sequence[int] | int | None
"""Of a network's input: (height, width), the longer side with the frame's proportions, or None for the usual one."""


class Engine(Protocol):
    """What runs a network: images uint8 BGR [N, H, W, 3] -> its output."""

    @property
    def name(self) -> str:
        """One of `tools.options.ENGINES`, or several where sizes are shared between engines."""
        ...

    def __call__(self, images: Tensor) -> Any: ...


def for_inference(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a model for inference: evaluation mode, norms folded into convolutions, channels last, no gradients."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, ConvNormAct):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - no longer a norm
    model = model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in torch's stub
    return model.requires_grad_(False)


class TorchEngine(nn.Module):
    """The engine that is always there: the model in torch, with whatever makes it fast there and changes no result.

    Arguments:
        model: is copied.
        mean, std: of the RGB values scaled to 0..1, as in training.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.model = take_bgr(for_inference(model, self.device))
        self.bytes_to_values: Callable[[Tensor], Tensor]
        if self.device.type == "cpu":
            self.bytes_to_values = LookUp(mean, std)
            if can_fuse():
                fuse(self.model)
        else:
            self.bytes_to_values = Affine(mean, std).to(self.device)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Any:
        """Images uint8 BGR [N, H, W, 3], on any device -> what the model gives, on the engine's."""
        return self.model(self.bytes_to_values(images.to(self.device)))


class LookUp:
    """Bytes [N, H, W, 3] BGR -> normalised float32 [N, 3, H, W] BGR, channels last, in one pass on the CPU."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        levels = np.arange(256, dtype=np.float32)[:, None] / 255
        table = (levels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        self.table = np.ascontiguousarray(table[:, ::-1]).reshape(256, 1, 3)

    def __call__(self, images: Tensor) -> Tensor:
        values = torch.empty(images.shape, dtype=torch.float32)
        for image, out in zip(images.numpy(), values.numpy(), strict=True):
            cv2.LUT(image, self.table, out)
        return values.permute(0, 3, 1, 2)


class Affine(nn.Module):
    """Bytes [N, H, W, 3] BGR -> normalised float32 [N, 3, H, W] BGR, channels last, in torch's operators."""

    shift: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("shift", mean), ("scale", std)):
            self.register_buffer(name, torch.tensor(list(values)[::-1]) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.float() - self.shift) / self.scale).permute(0, 3, 1, 2)


def take_bgr(model: nn.Module) -> nn.Module:
    """A Segmenter, Detector or joint network of `for_inference`, which now takes normalised images of channels BGR."""
    stem: nn.Conv2d = model.backbone.stem.conv  # pyright: ignore - a Network's
    weight = stem.weight.flip(1).contiguous(memory_format=torch.channels_last)
    stem.weight = nn.Parameter(weight, requires_grad=False)
    return model


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], *, channels_last: bool = True) -> Tensor:
    """Images uint8 RGB [N, 3, H, W] -> float32 [N, 3, H, W], (value / 255 - mean) / std, on the same device."""
    shift, scale = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) * 255 for values in (mean, std))
    images = (images.float() - shift) / scale
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def check_frame(frame_bgr: np.ndarray) -> None:
    """Raises an InputError where a frame is not uint8 [H, W, 3]."""
    if frame_bgr.ndim != 3 or frame_bgr.shape[2] != 3 or frame_bgr.dtype != np.uint8 or not frame_bgr.size:
        raise InputError(f"an image must be uint8 [H, W, 3], got {frame_bgr.dtype} {list(frame_bgr.shape)}")


def check_size(size: Size) -> None:
    """Raises an InputError where a size is neither one side nor (height, width), or out of range."""
    if size is None:
        return
    if not isinstance(size, int) and not (isinstance(size, (tuple, list)) and len(size) == 2):
        raise InputError(f"size {size!r}: give (height, width), or one number for the longer side, in pixels")
    sides = [size] if isinstance(size, int) else size
    for side in sides:
        if not isinstance(side, int) or isinstance(side, bool) or not SIDES[0] <= side <= SIDES[1]:
            raise InputError(f"size {size!r}: each side must be a whole number of {SIDES[0]} to {SIDES[1]} pixels")


def input_size(size: Size, frame_hw: Sequence[int], usual_hw: Sequence[int]) -> tuple[int, int]:
    """The (height, width) in pixels of the network's input for a frame.

    Arguments:
        frame_hw: (height, width) of the frame.
        usual_hw: where no size was asked for.
    """
    if size is None:
        height, width = usual_hw
    elif isinstance(size, int):
        scale = size / max(frame_hw)
        height, width = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in frame_hw)
    else:
        height, width = size
    return int(height), int(width)


def run_in_batches(engine: Engine, images: Sequence[Tensor]) -> list[Any]:
    """The output of each image uint8 [1, H, W, 3], as of a batch of one; images of one size run as one batch."""
    groups: dict[torch.Size, list[int]] = {}
    for number, image in enumerate(images):
        groups.setdefault(image.shape, []).append(number)
    outputs: list[Any] = [None] * len(images)
    for numbers in groups.values():
        output = engine(torch.cat([images[number] for number in numbers]))
        for place, number in enumerate(numbers):
            outputs[number] = map_outputs(lambda part, place=place: part[place : place + 1], output)
    return outputs


def map_outputs(function: Callable[..., Tensor], *outputs: Any) -> Any:
    """What a function makes of networks' outputs of one structure, tensor by tensor, in that structure.

    Arguments:
        function: called with one tensor of each output.
        outputs: tensors, NamedTuples of tensors, or mappings of such by the names of a joint network's heads.
    """
    first = outputs[0]
    if isinstance(first, Tensor):
        return function(*outputs)
    if isinstance(first, Mapping):
        return {name: map_outputs(function, *(output[name] for output in outputs)) for name in first}
    return type(first)(*(map_outputs(function, *parts) for parts in zip(*outputs, strict=True)))
