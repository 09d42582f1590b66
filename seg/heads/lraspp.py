"""The paper's heads, LR-ASPP (section 6.4, figure 10) and R-ASPP, and the auxiliary head; all on declared features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone import Feature
from backbone.blocks import ConvNormAct

POOLING = {
    # output stride: (kernel, stride) of the pooling windows. 16 is figure 10's, 32 the official code's flags. At 8
    # PaddleSeg and mmsegmentation keep figure 10's, which there see half as far.
    8: (49, (16, 20)),
    16: (49, (16, 20)),
    32: (25, (4, 5)),
}


class LRASPPHead(nn.Module):
    """LR-ASPP: coarse values gated by what pooling sees, classified, and added to classified values of stride 8.

    Arguments:
        pooling: "windows" of `POOLING`, all of a map that is smaller; or "global", the mean over the map.
        alignment: how maps of different strides lie over each other, see `resized`.
        official: gate with hard sigmoid and bias as the official code, else with sigmoid and without as torchvision.
    """

    def __init__(
        self,
        low: Feature,
        high: Feature,
        *,
        num_classes: int,
        head_channels: int,
        pooling: str,
        alignment: str,
        official: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.window = POOLING[high.stride] if pooling == "windows" else None
        self.alignment = alignment
        self.project = ConvNormAct(
            high.channels, head_channels, 1, activation=nn.ReLU, norm_eps=1e-5, norm_momentum=0.1
        )
        self.gate = nn.Conv2d(high.channels, head_channels, 1, bias=official)
        self.squash = nn.Hardsigmoid() if official else nn.Sigmoid()
        self.dropout = nn.Dropout2d(dropout)
        self.classify_high = nn.Conv2d(head_channels, num_classes, 1)
        self.classify_low = nn.Conv2d(low.channels, num_classes, 1)
        self.stride, self.multiple, self.least = low.stride, 1, 1

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low [N, C, H/8, W/8], high [N, C', H/s, W/s] -> logits [N, num_classes, H/8, W/8]."""
        height, width = high.shape[-2:]
        if self.window is None:
            gate = self.squash(self.gate(high.mean((2, 3), keepdim=True)))  # [N, F, 1, 1]
        else:
            size, stride = self.window
            pooled = F.avg_pool2d(high, (min(size, height), min(size, width)), stride)
            gate = self.squash(self.gate(pooled))  # [N, F, h, w], 1x1 if the map is small
            gate = resized(gate, (height, width), "corners")
        # A 1x1 convolution and bilinear resizing commute; classes are fewer than head channels, so they are resized.
        logits = self.classify_high(self.dropout(self.project(high) * gate))
        return self.classify_low(low) + resized(logits, low.shape[-2:], self.alignment)


class RASPPHead(nn.Module):
    """R-ASPP, the head of MobileNetV2 (arXiv 1801.04381, section 6.3): a 1x1 convolution beside the pooled map."""

    def __init__(self, high: Feature, *, num_classes: int, head_channels: int, dropout: float) -> None:
        super().__init__()
        common = {"activation": nn.ReLU, "norm_eps": 1e-5, "norm_momentum": 0.1}
        self.project = ConvNormAct(high.channels, head_channels, 1, **common)
        self.pooled = ConvNormAct(high.channels, head_channels, 1, **common)
        self.merge = ConvNormAct(2 * head_channels, head_channels, 1, **common)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(head_channels, num_classes, 1)
        self.stride, self.multiple, self.least = high.stride, 1, 1

    def forward(self, high: Tensor) -> Tensor:
        """high [N, C, H/s, W/s] -> logits [N, num_classes, H/s, W/s]."""
        mean = self.pooled(high.mean((2, 3), keepdim=True))  # [N, F, 1, 1]
        merged = self.merge(torch.cat([mean.expand(-1, -1, *high.shape[-2:]), self.project(high)], dim=1))
        return self.classify(self.dropout(merged))


class AuxiliaryHead(nn.Module):
    """The fully convolutional head that a network can be trained with: 3x3 to a quarter of the channels, 1x1."""

    def __init__(self, feature: Feature, *, num_classes: int) -> None:
        super().__init__()
        inner = max(1, feature.channels // 4)
        self.project = ConvNormAct(feature.channels, inner, 3, activation=nn.ReLU, norm_eps=1e-5, norm_momentum=0.1)
        self.dropout = nn.Dropout(0.1)
        self.classify = nn.Conv2d(inner, num_classes, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """feature [N, C, h, w] -> logits [N, num_classes, h, w]."""
        return self.classify(self.dropout(self.project(feature)))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing with half-pixel centres: [N, C, h, w] -> [N, C, H, W] for size (H, W)."""
    return resized(logits, size, "centres")


def resized(maps: Tensor, size: tuple[int, int], alignment: str) -> Tensor:
    """Bilinear resizing that lays the maps' outer edges over each other ("centres"), or their outer values ("corners").

    maps [N, C, h, w] -> [N, C, H, W] for size (H, W).
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=alignment == "corners")
