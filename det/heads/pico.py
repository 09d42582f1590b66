"""Pico: PicoDet's light neck and decoupled, anchor-free predictors (arXiv 2111.00902).

Maps of strides 8 to 64 are merged downwards and upwards by blocks of depthwise 5x5 convolutions. Every cell predicts,
for each side of a box, a distribution over its distance from the cell's center, and a score that is class and quality
of the box at once.

A second set of predictors on the same maps can be trained to give each object one box (consistent dual assignment,
arXiv 2405.14458).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbone.architectures.plan import Feature
from backbone.blocks import ConvNormAct
from det.boxes import DualDetections, RawDetections
from det.heads.anchors import feature_sizes

SIZES = {
    # channels, depth of the towers
    "pico96": (96, 2),
    "pico128": (128, 4),
}
NUM_BINS = 8
"""A side lies 0 to 7 strides away from the center; the distribution is over these whole numbers."""
KERNEL = 5


def _conv(
    in_channels: int,
    out_channels: int,
    norm_momentum: float,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    padding: str = "symmetric",
) -> ConvNormAct:
    """Convolution, norm, hard-swish."""
    return ConvNormAct(
        in_channels,
        out_channels,
        kernel,
        stride,
        groups=groups,
        activation=nn.Hardswish,
        norm_eps=1e-5,
        norm_momentum=norm_momentum,
        padding=padding,
    )


class Separable(nn.Sequential):
    """5x5 depthwise, then 1x1, both with norm and hard-swish: [N, C, H, W] -> [N, C, ceil(H/s), ceil(W/s)]."""

    def __init__(self, channels: int, norm_momentum: float, stride: int = 1, padding: str = "symmetric") -> None:
        super().__init__()
        self.depthwise = _conv(
            channels, channels, norm_momentum, kernel=KERNEL, stride=stride, groups=channels, padding=padding
        )
        self.project = _conv(channels, channels, norm_momentum)


class Merge(nn.Module):
    """Merges two maps by a cross-stage-partial block: half of the channels pass a 1x1 and a separable convolution.

    Two maps [N, C, H, W] -> one of that shape.
    """

    def __init__(self, channels: int, norm_momentum: float) -> None:
        super().__init__()
        half = channels // 2
        self.main = _conv(2 * channels, half, norm_momentum)
        self.short = _conv(2 * channels, half, norm_momentum)
        self.reduce = _conv(half, half, norm_momentum)
        self.separable = Separable(half, norm_momentum)
        self.project = _conv(2 * half, channels, norm_momentum)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        both = torch.cat([one, other], dim=1)
        main = self.separable(self.reduce(self.main(both)))
        return self.project(torch.cat([main, self.short(both)], dim=1))


class Predictors(nn.Module):
    """For each map a tower and two last convolutions, of classes and of distances.

    Maps [N, C, H/s, W/s], finest first -> raw output, as `PicoHead.forward` describes it.
    """

    def __init__(self, channels: int, depth: int, *, num_maps: int, num_classes: int, norm_momentum: float) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(*(Separable(channels, norm_momentum) for _ in range(depth))) for _ in range(num_maps)
        )
        self.class_predictors = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in range(num_maps))
        self.distance_predictors = nn.ModuleList(nn.Conv2d(channels, 4 * NUM_BINS, 1) for _ in range(num_maps))

    def forward(self, maps: Sequence[Tensor]) -> RawDetections:
        return _predict(maps, self.towers, self.class_predictors, self.distance_predictors)


class PicoHead(nn.Module):
    """Maps of strides 8 to 64 from taps at 8, 16 and 32, and for each a tower and a predictor of its own.

    Arguments:
        features: channels and stride of the three taps, finest first.
        num_classes: K, columns of the class logits.
        size: a key of `SIZES`.
        norm_momentum: of all batch norms.
        padding: of the strided convolutions: "symmetric" or "same", as the backbone's.
        one_to_one: have a second set of predictors, `one_to_one`, else None.
    """

    losses = ("aligned",)
    """Kinds of loss that train it, the default first."""

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        num_classes: int,
        size: str,
        norm_momentum: float,
        padding: str,
        one_to_one: bool = False,
    ) -> None:
        super().__init__()
        channels, depth = SIZES[size]
        self.strides = (*(feature.stride for feature in features), 2 * features[-1].stride)
        self.laterals = nn.ModuleList(_conv(feature.channels, channels, norm_momentum) for feature in features)
        num_merges = len(features) - 1
        self.top_down = nn.ModuleList(Merge(channels, norm_momentum) for _ in range(num_merges))
        self.downsample = nn.ModuleList(Separable(channels, norm_momentum, 2, padding) for _ in range(num_merges))
        self.bottom_up = nn.ModuleList(Merge(channels, norm_momentum) for _ in range(num_merges))
        self.top_from_lateral = Separable(channels, norm_momentum, 2, padding)
        self.top_from_merged = Separable(channels, norm_momentum, 2, padding)

        def predictors() -> Predictors:
            return Predictors(
                channels, depth, num_maps=len(self.strides), num_classes=num_classes, norm_momentum=norm_momentum
            )

        self._take(predictors())
        self.one_to_one = predictors() if one_to_one else None

    def forward(self, *taps: Tensor) -> RawDetections:
        """Features [N, C, H/8, W/8], [N, C', H/16, W/16], [N, C'', H/32, W/32] -> raw output for all cells.

        Class logits are [N, A, K], box offsets [N, A, 4 * NUM_BINS]: for left, top, right and bottom the logits of the
        distances.
        """
        return self._one_to_many(self._neck(taps))

    def both(self, *taps: Tensor) -> DualDetections:
        """As `forward`, of both sets of predictors; the one-to-one set does not train the neck."""
        assert self.one_to_one is not None
        maps = self._neck(taps)
        return DualDetections(self._one_to_many(maps), self.one_to_one([x.detach() for x in maps]))

    def keep(self, *, one_to_one: bool) -> None:
        """Drops one set of predictors, where there are two; `forward` gives the output of the other."""
        if one_to_one and self.one_to_one is not None:
            self._take(self.one_to_one)
        self.one_to_one = None

    def _take(self, predictors: Predictors) -> None:
        """Makes a set of predictors the head's own: weights files have its layers without another level of names."""
        self.towers = predictors.towers
        self.class_predictors = predictors.class_predictors
        self.distance_predictors = predictors.distance_predictors

    def _one_to_many(self, maps: Sequence[Tensor]) -> RawDetections:
        return _predict(maps, self.towers, self.class_predictors, self.distance_predictors)

    def _neck(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """The merged maps [N, C, H/s, W/s], finest first."""
        laterals = [lateral(x) for lateral, x in zip(self.laterals, taps, strict=True)]
        inner = [laterals[-1]]
        for merge, x in zip(self.top_down, reversed(laterals[:-1]), strict=True):
            # To the finer map's size, which is not exactly twice the coarser one's for every input.
            inner.insert(0, merge(F.interpolate(inner[0], size=x.shape[2:]), x))
        maps = [inner[0]]
        for down, merge, x in zip(self.downsample, self.bottom_up, inner[1:], strict=True):
            maps.append(merge(down(maps[-1]), x))
        maps.append(self.top_from_lateral(laterals[-1]) + self.top_from_merged(maps[-1]))
        return maps

    def anchors(self, image_size_hw: tuple[int, int]) -> Tensor:
        """The cells [A, 4] of an input of (height, width), xyxy in its pixels, in the order of `forward`'s output."""
        cells = []
        for (rows, columns), stride in zip(feature_sizes(image_size_hw, self.strides), self.strides, strict=True):
            top, left = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            corner = torch.stack([left, top], dim=-1).reshape(-1, 2).float() * stride
            cells.append(torch.cat([corner, corner + stride], dim=-1))
        return torch.cat(cells)

    @staticmethod
    def decode(box_offsets: Tensor, anchors: Tensor) -> Tensor:
        """Logits of distances [..., 4 * NUM_BINS] and their cells [..., 4] -> boxes [..., 4], xyxy in pixels."""
        return boxes_from_distances(distances(box_offsets), anchors)

    def output_layers(self) -> tuple[list[nn.Conv2d], list[nn.Conv2d]]:
        """The last convolutions of the classes and of the distances."""
        sets = [self] if self.one_to_one is None else [self, self.one_to_one]
        classes = [layer for part in sets for layer in part.class_predictors if isinstance(layer, nn.Conv2d)]
        distances = [layer for part in sets for layer in part.distance_predictors if isinstance(layer, nn.Conv2d)]
        return classes, distances


def _predict(
    maps: Sequence[Tensor], towers: nn.ModuleList, class_predictors: nn.ModuleList, distance_predictors: nn.ModuleList
) -> RawDetections:
    """The raw output for maps [N, C, H/s, W/s], with one entry of each list for each."""
    maps = [tower(x) for tower, x in zip(towers, maps, strict=True)]
    return RawDetections(
        class_logits=torch.cat([_rows(predict(x)) for predict, x in zip(class_predictors, maps, strict=True)], 1),
        box_offsets=torch.cat([_rows(predict(x)) for predict, x in zip(distance_predictors, maps, strict=True)], 1),
    )


def _rows(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W, C], cells row by row."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def distances(logits: Tensor) -> Tensor:
    """Logits [..., 4 * NUM_BINS] -> expected distances [..., 4] of left, top, right and bottom side, in strides."""
    shares = logits.unflatten(-1, (4, NUM_BINS)).softmax(dim=-1)
    return shares @ torch.arange(NUM_BINS, dtype=shares.dtype, device=shares.device)


def boxes_from_distances(sides: Tensor, cells_xyxy: Tensor) -> Tensor:
    """Distances [..., 4] in strides from the centers of cells [..., 4] -> boxes [..., 4], xyxy in the cells' unit."""
    centers = (cells_xyxy[..., :2] + cells_xyxy[..., 2:]) / 2
    stride = cells_xyxy[..., 2:] - cells_xyxy[..., :2]
    return torch.cat([centers - sides[..., :2] * stride, centers + sides[..., 2:] * stride], dim=-1)


def distances_to(boxes_xyxy: Tensor, cells_xyxy: Tensor) -> Tensor:
    """The distances [..., 4] in strides that lead from the centers of cells [..., 4] to boxes [..., 4]."""
    centers = (cells_xyxy[..., :2] + cells_xyxy[..., 2:]) / 2
    stride = cells_xyxy[..., 2:] - cells_xyxy[..., :2]
    return torch.cat([(centers - boxes_xyxy[..., :2]) / stride, (boxes_xyxy[..., 2:] - centers) / stride], dim=-1)
