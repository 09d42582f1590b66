"""Prepares models and images for inference: folded norms, normalised input."""

import copy
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbone.blocks import ConvNormAct
from backbone.errors import InputError


def for_inference(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a model for inference: evaluation mode, norms folded into convolutions, channels last, no gradients."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, ConvNormAct):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - no longer a norm
    model = model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in torch's stub
    return model.requires_grad_(False)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], *, channels_last: bool = True) -> Tensor:
    """Images uint8 RGB [N, 3, H, W] -> float32 [N, 3, H, W], (value / 255 - mean) / std, on the same device."""
    shift, scale = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) * 255 for values in (mean, std))
    images = (images.float() - shift) / scale
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def network_input(
    frame_bgr: np.ndarray,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> Tensor:
    """A frame uint8 BGR [H, W, 3] -> network input float32 RGB [1, 3, H, W], (value / 255 - mean) / std, channels last.

    Raises:
        InputError: the frame is of another shape or type.
    """
    if frame_bgr.ndim != 3 or frame_bgr.shape[2] != 3 or frame_bgr.dtype != np.uint8:
        raise InputError(f"an image must be uint8 [H, W, 3], got {frame_bgr.dtype} {list(frame_bgr.shape)}")
    levels = np.arange(256, dtype=np.float32)[:, None] / 255
    table = ((levels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)).reshape(256, 1, 3)
    values = cv2.LUT(cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2RGB), table)  # float32 [H, W, 3]
    return torch.from_numpy(values).to(device).permute(2, 0, 1)[None]
