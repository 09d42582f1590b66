"""R-ASPP, the head of MobileNetV2 (arXiv 1801.04381, section 6.3)."""

import torch
from torch import Tensor, nn

from backbone.architectures.plan import Feature
from backbone.blocks import ConvNormAct


class RASPPHead(nn.Module):
    """A 1x1 convolution and image-level pooling side by side, merged by another 1x1 convolution, classified.

    Arguments:
        high: channels and stride of the deepest features.
        head_channels: channels of each branch and of the merged map.
        dropout: probability of dropping a channel before the classifying convolution.
    """

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
