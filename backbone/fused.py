"""Convolutions that oneDNN computes together with their activation, for inference on x86 processors.

PyTorch's own compiler uses the same operators. Against separate operators they save a pass over memory for each
activation and the rearrangement of the weights for each call: LR-ASPP at 512x1024 takes 0.78 of the time.
"""

import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.blocks import Bottleneck, ConvNormAct, SameConv2d, SqueezeExcite

ATTRIBUTES = {
    # activation: oneDNN's name, its numbers
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
}


def can_fuse() -> bool:
    """Whether this machine's torch has the operators."""
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def fuse(model: nn.Module) -> nn.Module:
    """Replaces convolutions, in place, in a model that `for_inference` made for the CPU; only for inference."""
    for module in list(model.modules()):
        if isinstance(module, ConvNormAct):
            module.conv = FusedConv2d(module.conv, module.activation)  # pyright: ignore[reportAttributeAccessIssue]
            module.activation = nn.Identity()
        elif isinstance(module, Bottleneck) and isinstance(module.squeeze_excite, SqueezeExcite):
            tapped = "depthwise" in module.points
            fused = FusedSqueezeExcite(module.squeeze_excite, in_place=not tapped)
            module.squeeze_excite = fused  # pyright: ignore[reportAttributeAccessIssue] - of the same call
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and isinstance(child.padding, tuple) and child.padding_mode == "zeros":
                setattr(module, name, FusedConv2d(child, nn.Identity()))
    return model


class FusedConv2d(nn.Module):
    """A convolution with bias or without and its activation, weights laid out once for a size of input.

    The size matters: laid out for an unknown one, 1x1 convolutions of small maps take 45 times as long.

    Arguments:
        activation: one of `ATTRIBUTES`.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.pad = conv.pad if isinstance(conv, SameConv2d) else nn.Identity()
        assert isinstance(conv.padding, tuple)
        self.geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self.activation = ATTRIBUTES[type(activation)]
        self.bias = conv.bias
        self.weight = conv.weight.detach()
        self.laid_out: tuple[torch.Size, Tensor] | None = None  # the last input's size, and the weight for it

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', h, w]."""
        x = self.pad(x)
        laid_out = self.laid_out
        if laid_out is None or laid_out[0] != x.shape:
            weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry, list(x.shape))
            self.laid_out = laid_out = x.shape, weight
        return torch.ops.mkldnn._convolution_pointwise(
            x, laid_out[1], self.bias, *self.geometry, *self.activation, algorithm=""
        )


class FusedSqueezeExcite(nn.Module):
    """A squeeze-and-excite whose two small layers are matrix products.

    Arguments:
        in_place: scale the input itself, where nothing else reads it.
    """

    def __init__(self, module: SqueezeExcite, in_place: bool) -> None:
        super().__init__()
        self.layers = [(layer.weight.flatten(1), layer.bias) for layer in (module.reduce, module.expand)]
        self.activation, self.gate, self.after = module.activation, module.gate, module.after
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same shape."""
        reduce, expand = self.layers
        mean = self.activation(F.linear(x.mean((2, 3)), *reduce))
        gates = self.gate(F.linear(mean, *expand))[..., None, None]
        return self.after(x.mul_(gates) if self.in_place else x * gates)
