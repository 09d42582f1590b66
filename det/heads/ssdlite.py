"""SSDLite, the head of MobileNetV3's detectors (section 6.3): six maps from stride 16 on, depthwise predictors."""

import torch
from torch import Tensor, nn

from backbone.architectures.plan import Feature
from backbone.blocks import ConvNormAct
from det import boxes
from det.boxes import RawDetections
from det.heads.anchors import anchors_per_cell, feature_sizes, ssd_anchors
from det.options import ANCHOR_LOSSES

EXTRA_CHANNELS = (512, 256, 256, 128)
MIN_EXTRA_CHANNELS = 16


class Extra(nn.Module):
    """A further map of half the size: 1x1 to half the channels, 3x3 depthwise with stride 2, 1x1.

    Arguments:
        multiplier: filters of the depthwise convolution for each of its channels, 1 or 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm_momentum: float, padding: str, multiplier: int = 1
    ) -> None:
        super().__init__()
        half = out_channels // 2
        norm = {"activation": nn.ReLU6, "norm_momentum": norm_momentum}
        self.reduce = ConvNormAct(in_channels, half, 1, **norm)
        self.depthwise = ConvNormAct(half, multiplier * half, 3, stride=2, groups=half, padding=padding, **norm)
        self.project = ConvNormAct(multiplier * half, out_channels, 1, **norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, ceil(H/2), ceil(W/2)]."""
        return self.project(self.depthwise(self.reduce(x)))


class PredictionBlock(nn.Module):
    """`values` numbers for every anchor of a map: 3x3 depthwise, then 1x1, by default with bias."""

    def __init__(
        self, in_channels: int, num_anchors: int, values: int, norm_momentum: float, bias: bool = True
    ) -> None:
        super().__init__()
        self.values = values
        self.depthwise = ConvNormAct(
            in_channels, in_channels, 3, groups=in_channels, activation=nn.ReLU6, norm_momentum=norm_momentum
        )
        self.project = nn.Conv2d(in_channels, num_anchors * values, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, H * W * anchors, values], cells row by row, the anchors of a cell together."""
        return self.project(self.depthwise(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class SSDLiteHead(nn.Module):
    """Four extra maps after C4 and C5, and class and box predictors on all six.

    Arguments:
        c4, c5: channels and strides of the features at strides 16 and 32.
        num_classes: K, columns of the class logits.
        variant: of the anchors, "paper", "torchvision" or "paddle"; see `ssd_anchors`. With "paddle", the extra maps
            are PaddleDetection's, padded as TensorFlow pads and with two depthwise filters for each channel, and the
            predictors have no biases.
        width: multiplies the channels of the extra maps.
        norm_momentum: of all batch norms.
        padding: of the strided convolutions: "symmetric" or "same", as the backbone's; "paddle" has "same" anyway.
    """

    losses = ANCHOR_LOSSES
    """Kinds of loss that train it, the default first."""

    def __init__(
        self,
        c4: Feature,
        c5: Feature,
        *,
        num_classes: int,
        variant: str,
        width: float,
        norm_momentum: float,
        padding: str,
    ) -> None:
        super().__init__()
        self.variant = variant
        channels = [c4.channels, c5.channels]
        self.strides = (c4.stride, c5.stride, *(c5.stride * 2**n for n in range(1, len(EXTRA_CHANNELS) + 1)))
        self.extras = nn.ModuleList()
        for extra_channels in EXTRA_CHANNELS:
            out_channels = max(MIN_EXTRA_CHANNELS, int(extra_channels * width))
            if variant == "paddle":
                extra = Extra(channels[-1], out_channels, norm_momentum, padding="same", multiplier=2)
            else:
                extra = Extra(channels[-1], out_channels, norm_momentum, padding)
            self.extras.append(extra)
            channels.append(out_channels)
        per_map = list(zip(channels, anchors_per_cell(variant), strict=True))
        common = {"norm_momentum": norm_momentum, "bias": variant != "paddle"}
        self.class_predictors = nn.ModuleList(PredictionBlock(c, n, num_classes, **common) for c, n in per_map)
        self.box_predictors = nn.ModuleList(PredictionBlock(c, n, 4, **common) for c, n in per_map)

    def forward(self, c4: Tensor, c5: Tensor) -> RawDetections:
        """C4 [N, C, H/16, W/16], C5 [N, C', H/32, W/32] -> class logits [N, A, K] and box offsets [N, A, 4]."""
        maps = [c4, c5]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return RawDetections(
            class_logits=torch.cat([predict(x) for predict, x in zip(self.class_predictors, maps, strict=True)], dim=1),
            box_offsets=torch.cat([predict(x) for predict, x in zip(self.box_predictors, maps, strict=True)], dim=1),
        )

    def anchors(self, image_size_hw: tuple[int, int]) -> Tensor:
        """The anchors [A, 4] of an input of (height, width), xyxy in its pixels, in the order of `forward`'s output."""
        return ssd_anchors(feature_sizes(image_size_hw, self.strides), image_size_hw, self.variant)

    @staticmethod
    def decode(box_offsets: Tensor, anchors: Tensor) -> Tensor:
        """Box offsets [..., 4] and their anchors [..., 4] -> boxes [..., 4], xyxy in the anchors' unit."""
        return boxes.decode(box_offsets, anchors)

    def output_layers(self) -> tuple[list[nn.Conv2d], list[nn.Conv2d]]:
        """The last convolutions of the class predictors and of the box predictors."""
        classes = [block.project for block in self.class_predictors if isinstance(block, PredictionBlock)]
        offsets = [block.project for block in self.box_predictors if isinstance(block, PredictionBlock)]
        return classes, offsets
