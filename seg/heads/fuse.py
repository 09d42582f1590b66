"""Fuse: wide context at the deepest tap, summed upwards, refined at stride 8.

What separates today's small segmenters from LR-ASPP is the receptive field of their context (RegSeg, arXiv 2111.09957)
and the convolutions at stride 8 after the maps are summed.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from backbone.architectures.plan import Feature
from backbone.blocks import ConvNormAct
from seg.resizing import resize

DILATIONS = (1, 3, 5)
"""Of the context's blocks: 7x7 kernels that reach 1 + 6 * (1 + 3 + 5) = 55 cells, 1760 pixels at stride 32."""
REFINING_BLOCKS = 2
EXPANSION = 4


def _conv(
    in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, groups: int = 1, relu: bool = True
) -> ConvNormAct:
    """Convolution, norm, and a rectifier if asked."""
    activation = nn.ReLU if relu else None
    return ConvNormAct(
        in_channels,
        out_channels,
        kernel,
        dilation=dilation,
        groups=groups,
        activation=activation,
        norm_eps=1e-5,
        norm_momentum=0.1,
    )


class ContextBlock(nn.Module):
    """Residual block of a dilated 7x7 depthwise and a 1x1 convolution: [N, C, h, w] -> same shape."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.depthwise = _conv(channels, channels, 7, dilation, groups=channels, relu=False)
        self.project = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(x))


class Context(nn.Module):
    """What surrounds each cell: a 1x1 convolution, three context blocks, and a gate from the mean of the whole map."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.project = _conv(in_channels, channels)
        self.blocks = nn.Sequential(*(ContextBlock(channels, dilation) for dilation in DILATIONS))
        self.gate = nn.Conv2d(channels, channels, 1)
        self.squash = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, channels, h, w]."""
        x = self.blocks(self.project(x))
        return x * self.squash(self.gate(x.mean((2, 3), keepdim=True)))


class RefiningBlock(nn.Module):
    """Inverted residual: 1x1 to four times the channels, 5x5 depthwise, 1x1 back: [N, C, h, w] -> same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        self.expand = _conv(channels, inner)
        self.depthwise = _conv(inner, inner, 5, groups=inner)
        self.project = _conv(inner, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


class FuseHead(nn.Module):
    """Context at the deepest feature, added to the finer ones, two inverted residuals on the sum, a 1x1 classifier.

    Arguments:
        features: channels and strides of the three features, finest first; the logits have the first one's stride.
        head_channels: channels of the summed maps; the context has twice as many.
        dropout: probability of dropping a channel before the classifying convolution.
    """

    def __init__(self, features: Sequence[Feature], *, num_classes: int, head_channels: int, dropout: float) -> None:
        super().__init__()
        *finer, deepest = features
        self.context = Context(deepest.channels, 2 * head_channels)
        channels = [*(feature.channels for feature in finer), 2 * head_channels]
        self.laterals = nn.ModuleList(_conv(count, head_channels, relu=False) for count in channels)
        self.refine = nn.Sequential(*(RefiningBlock(head_channels) for _ in range(REFINING_BLOCKS)))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(head_channels, num_classes, 1)
        self.stride, self.multiple, self.least = finer[0].stride, 1, 1

    def forward(self, *features: Tensor) -> Tensor:
        """Features [N, C, H/8, W/8], [N, C', H/16, W/16], [N, C'', H/s, W/s] -> logits [N, num_classes, H/8, W/8]."""
        *finer, deepest = features
        *laterals, lateral = self.laterals
        total = lateral(self.context(deepest))
        for lateral, feature in zip(reversed(laterals), reversed(finer), strict=True):
            total = lateral(feature) + resize(total, feature.shape[-2:])
        return self.classify(self.dropout(self.refine(total)))
