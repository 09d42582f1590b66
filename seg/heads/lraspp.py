"""LR-ASPP, the head of MobileNetV3 (section 6.4, figure 10), and PaddleSeg's form of it, which merges three maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.architectures.plan import Feature
from backbone.blocks import ConvNormAct
from seg.resizing import resize

POOLING = {
    # output stride: (kernel, stride) of the average pooling
    8: (49, (16, 20)),  # PaddleSeg and mmsegmentation keep figure 10's, though it covers half the field of view here
    16: (49, (16, 20)),  # figure 10
    32: (25, (4, 5)),  # the flags of the official code
}
LATERAL_CHANNELS = (64, 32)
"""Of the projected features of stride 8 and of stride 4 in `MergingLRASPPHead`."""


class LRASPPHead(nn.Module):
    """Projected stride-16 features, gated by pooled context, classified and added to the classified stride-8 features.

    The stride is 16 in the paper; features of stride 8 and 32 work alike.

    Arguments:
        low: channels and stride of the stride-8 features.
        high: channels and stride of the deepest features.
        head_channels: the paper's F, channels of the projection and of the gate.
        variant: "paper" gates with a hard sigmoid and a bias, as the official code; "torchvision" with a sigmoid and
            no bias.
        pooling: "windows" averages over the windows of `POOLING`, cut to the map's size; "global" over the whole map.
        align_corners: how the logits are resized to stride 8; see `seg.resizing.resize`. The gate is always resized
            with aligned corners, as in the official code.
        dropout: probability of dropping a channel before the classifying convolution.
    """

    def __init__(
        self,
        low: Feature,
        high: Feature,
        *,
        num_classes: int,
        head_channels: int,
        variant: str,
        pooling: str,
        align_corners: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.window = POOLING[high.stride] if pooling == "windows" else None
        self.align_corners = align_corners
        self.project = ConvNormAct(
            high.channels, head_channels, 1, activation=nn.ReLU, norm_eps=1e-5, norm_momentum=0.1
        )
        self.gate = nn.Conv2d(high.channels, head_channels, 1, bias=variant == "paper")
        self.squash = nn.Hardsigmoid() if variant == "paper" else nn.Sigmoid()
        self.dropout = nn.Dropout2d(dropout)
        self.classify_high = nn.Conv2d(head_channels, num_classes, 1)
        self.classify_low = nn.Conv2d(low.channels, num_classes, 1)
        self.stride, self.multiple, self.least = low.stride, 1, 1

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low [N, C, H/8, W/8], high [N, C', H/s, W/s] -> logits [N, num_classes, H/8, W/8]."""
        gate = self.squash(self.gate(pool(high, self.window)))  # [N, F, h, w]
        if self.window is not None:
            gate = resize(gate, high.shape[-2:], align_corners=True)
        # The paper resizes F channels and classifies at stride 8. A 1x1 convolution and bilinear resizing commute, so
        # resizing the logits of fewer channels gives the same.
        logits = self.classify_high(self.dropout(self.project(high) * gate))
        return self.classify_low(low) + resize(logits, low.shape[-2:], align_corners=self.align_corners)


class MergingLRASPPHead(nn.Module):
    """Projected deepest features, gated by pooled context, merged with those of stride 8, then with those of stride 4.

    This is PaddleSeg's LR-ASPP. Unlike the paper's it takes blocks' outputs, convolves after every merge, and ends at
    stride 4.

    Arguments:
        fine: channels and stride of the stride-4 features.
        low: of the stride-8 features.
        high: of the deepest features, at stride 8 in PaddleSeg's best models.
        head_channels: channels of the projection, the gate and the merged maps.
        pooling: "windows" averages over the windows of `POOLING`, cut to the map's size; "global" over the whole map.
        dropout: probability of dropping a channel before the classifying convolution.
    """

    def __init__(
        self,
        fine: Feature,
        low: Feature,
        high: Feature,
        *,
        num_classes: int,
        head_channels: int,
        pooling: str,
        dropout: float,
    ) -> None:
        super().__init__()
        norm = {"activation": nn.ReLU, "norm_eps": 1e-5, "norm_momentum": 0.1}
        self.window = POOLING[high.stride] if pooling == "windows" else None
        self.project = ConvNormAct(high.channels, head_channels, 1, **norm)
        self.gate = nn.Conv2d(high.channels, head_channels, 1, bias=False)
        self.squash = nn.Sigmoid()
        self.mix = nn.Conv2d(head_channels, head_channels, 1, bias=False)
        self.laterals, self.merges = nn.ModuleList(), nn.ModuleList()
        for feature, channels in zip((low, fine), LATERAL_CHANNELS, strict=True):
            self.laterals.append(nn.Conv2d(feature.channels, channels, 1, bias=False))
            self.merges.append(ConvNormAct(head_channels + channels, head_channels, 1, **norm))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(head_channels, num_classes, 1, bias=False)
        self.stride, self.multiple, self.least = fine.stride, 1, 1

    def forward(self, fine: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """[N, C, H/4, W/4], [N, C', H/8, W/8], [N, C'', H/s, W/s] -> logits [N, num_classes, H/4, W/4]."""
        gate = self.squash(self.gate(pool(high, self.window)))  # [N, F, h, w]
        if self.window is not None:
            gate = resize(gate, high.shape[-2:])
        merged = self.mix(self.project(high) * gate)
        for maps, lateral, merge in zip((low, fine), self.laterals, self.merges, strict=True):
            merged = merge(torch.cat([resize(merged, maps.shape[-2:]), lateral(maps)], dim=1))
        return self.classify(self.dropout(merged))


def pool(maps: Tensor, window: tuple[int, tuple[int, int]] | None) -> Tensor:
    """Averages [N, C, H, W] over windows of (size, stride), cut to the map's size: [N, C, h, w]; None: over all."""
    if window is None:
        return maps.mean((2, 3), keepdim=True)
    size, stride = window
    height, width = maps.shape[-2:]
    return F.avg_pool2d(maps, (min(size, height), min(size, width)), stride)  # 1x1 if the map is small
