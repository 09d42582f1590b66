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


class Detail(nn.Module):
    """What the map of stride 4 adds, for thin things: half of the channels of both maps, summed, one light residual.

    Maps [N, C, h, w] of stride 8 and [N, C', H, W] of stride 4 -> [N, C // 2, H, W].
    """

    def __init__(self, channels: int, fine_channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = _conv(channels, half, relu=False)
        self.lateral = _conv(fine_channels, half, relu=False)
        self.depthwise = _conv(half, half, 3, groups=half)
        self.project = _conv(half, half, relu=False)

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        total = self.lateral(fine) + resize(self.reduce(x), fine.shape[-2:])
        return total + self.project(self.depthwise(total))


class FuseHead(nn.Module):
    """Context at the deepest feature, added to the finer ones, two inverted residuals on the sum, a 1x1 classifier.

    Arguments:
        features: channels and strides of the features, finest first: of strides 8, 16 and the deepest, or 4 before
            them; the logits have the first one's stride.
        head_channels: channels of the summed maps; the context has twice as many.
        dropout: probability of dropping a channel before the classifying convolution.
    """

    def __init__(self, features: Sequence[Feature], *, num_classes: int, head_channels: int, dropout: float) -> None:
        super().__init__()
        fine, *finer, deepest = features if len(features) == 4 else (None, *features)
        self.context = Context(deepest.channels, 2 * head_channels)
        channels = [*(feature.channels for feature in finer), 2 * head_channels]
        self.laterals = nn.ModuleList(_conv(count, head_channels, relu=False) for count in channels)
        self.refine = nn.Sequential(*(RefiningBlock(head_channels) for _ in range(REFINING_BLOCKS)))
        self.detail = None if fine is None else Detail(head_channels, fine.channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(head_channels if fine is None else head_channels // 2, num_classes, 1)
        self.stride, self.multiple, self.least = features[0].stride, 1, 1

    def forward(self, *features: Tensor) -> Tensor:
        """Features of strides (4), 8, 16 and the deepest, [N, C, H/s, W/s] each -> logits [N, num_classes, H/s, W/s]."""
        *finer, deepest = features
        fine = None if self.detail is None else finer.pop(0)
        *laterals, lateral = self.laterals
        total = lateral(self.context(deepest))
        for lateral, feature in zip(reversed(laterals), reversed(finer), strict=True):
            total = lateral(feature) + resize(total, feature.shape[-2:])
        total = self.refine(total)
        if self.detail is not None:
            total = self.detail(total, fine)
        return self.classify(self.dropout(total))
