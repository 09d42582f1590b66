"""FPN-lite: a feature pyramid from stride 8 on with shared predictors, all of depthwise separable convolutions.

The design of TensorFlow's ssd_mobilenet_v2_fpnlite: RetinaNet with separable convolutions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.architectures.plan import Feature
from backbone.blocks import ConvNormAct, SameConv2d
from det import boxes
from det.boxes import RawDetections
from det.heads.anchors import PYRAMID_RATIOS, PYRAMID_SCALES, feature_sizes, pyramid_anchors
from det.options import ANCHOR_LOSSES

NUM_EXTRAS = 2
TOWER_DEPTH = 4
NUM_ANCHORS = len(PYRAMID_SCALES) * len(PYRAMID_RATIOS)


class Separable(nn.Sequential):
    """3x3 depthwise, then 1x1 with norm and ReLU6: [N, C, H, W] -> [N, C', ceil(H/stride), ceil(W/stride)]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm_momentum: float, padding: str) -> None:
        super().__init__()
        same = padding == "same" and stride > 1
        self.depthwise = (SameConv2d if same else nn.Conv2d)(
            in_channels, in_channels, 3, stride, 0 if same else 1, groups=in_channels, bias=False
        )
        self.project = ConvNormAct(in_channels, out_channels, 1, activation=nn.ReLU6, norm_momentum=norm_momentum)


class SharedLayer(nn.Module):
    """A separable layer whose convolutions all maps share, while each map has its own norm."""

    def __init__(self, channels: int, num_maps: int, norm_momentum: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, eps=1e-3, momentum=norm_momentum) for _ in range(num_maps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """A map [N, C, H, W] of each stride -> maps of the same shapes."""
        return [F.relu6(norm(self.project(self.depthwise(x)))) for norm, x in zip(self.norms, maps, strict=True)]


class SharedPredictor(nn.Module):
    """`values` numbers for every anchor of any map: 3x3 depthwise, then 1x1 with bias."""

    def __init__(self, channels: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.project = nn.Conv2d(channels, NUM_ANCHORS * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, H * W * anchors, values], cells row by row, the anchors of a cell together."""
        return self.project(self.depthwise(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class FPNLiteHead(nn.Module):
    """Maps of strides 8 to 128 from taps at 8, 16 and 32, a shared tower over them, and shared predictors.

    Arguments:
        features: channels and stride of the three taps, finest first.
        num_classes: K, columns of the class logits.
        head_channels: channels of every map.
        norm_momentum: of all batch norms.
        padding: of the strided convolutions: "symmetric" or "same", as the backbone's.
    """

    losses = ANCHOR_LOSSES
    """Kinds of loss that train it, the default first."""

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        num_classes: int,
        head_channels: int,
        norm_momentum: float,
        padding: str,
    ) -> None:
        super().__init__()
        coarsest = features[-1].stride
        self.strides = (*(f.stride for f in features), *(coarsest * 2**n for n in range(1, NUM_EXTRAS + 1)))
        self.laterals = nn.ModuleList(
            ConvNormAct(feature.channels, head_channels, 1, norm_momentum=norm_momentum) for feature in features
        )
        self.smooth = nn.ModuleList(
            Separable(head_channels, head_channels, 1, norm_momentum, padding) for _ in features[:-1]
        )
        self.extras = nn.ModuleList(
            Separable(head_channels, head_channels, 2, norm_momentum, padding) for _ in range(NUM_EXTRAS)
        )
        self.tower = nn.ModuleList(
            SharedLayer(head_channels, len(self.strides), norm_momentum) for _ in range(TOWER_DEPTH)
        )
        self.class_predictor = SharedPredictor(head_channels, num_classes)
        self.box_predictor = SharedPredictor(head_channels, 4)

    def forward(self, *taps: Tensor) -> RawDetections:
        """Features [N, C, H/8, W/8], [N, C', H/16, W/16], [N, C'', H/32, W/32] -> raw output for all anchors.

        Class logits are [N, A, K], box offsets [N, A, 4].
        """
        maps = [lateral(x) for lateral, x in zip(self.laterals, taps, strict=True)]
        for level in reversed(range(len(maps) - 1)):
            # To the finer map's size, which is not exactly twice the coarser one's for every input.
            maps[level] = maps[level] + F.interpolate(maps[level + 1], size=maps[level].shape[2:])
        coarse = maps[-1]
        maps = [smooth(x) for smooth, x in zip(self.smooth, maps[:-1], strict=True)] + [coarse]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        for layer in self.tower:
            maps = layer(maps)
        return RawDetections(
            class_logits=torch.cat([self.class_predictor(x) for x in maps], dim=1),
            box_offsets=torch.cat([self.box_predictor(x) for x in maps], dim=1),
        )

    def anchors(self, image_size_hw: tuple[int, int]) -> Tensor:
        """The anchors [A, 4] of an input of (height, width), xyxy in its pixels, in the order of `forward`'s output."""
        return pyramid_anchors(feature_sizes(image_size_hw, self.strides), image_size_hw, self.strides)

    @staticmethod
    def decode(box_offsets: Tensor, anchors: Tensor) -> Tensor:
        """Box offsets [..., 4] and their anchors [..., 4] -> boxes [..., 4], xyxy in the anchors' unit."""
        return boxes.decode(box_offsets, anchors)

    def output_layers(self) -> tuple[list[nn.Conv2d], list[nn.Conv2d]]:
        """The last convolutions of the class predictor and of the box predictor."""
        return [self.class_predictor.project], [self.box_predictor.project]
