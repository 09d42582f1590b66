"""SSDLite: a light head over two taps of a backbone, and the detector made of both (section 6.3 of the paper)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

import backbone as backbones
from backbone import Feature, InputError, Network
from backbone.blocks import ConvNormAct
from backbone.network import initialise
from det.anchors import anchors as place_anchors
from det.anchors import anchors_per_cell

# C4, "the expansion layer of the 13th bottleneck block" of Large and of the 9th of Small; C5 is the last 1x1.
C4_TAPS = {"mobilenet_v3_large": "13.expand", "mobilenet_v3_small": "9.expand"}
C5_TAP = "last"
EXTRA_CHANNELS = (512, 256, 256, 128)
MIN_EXTRA_CHANNELS = 16

# torchvision's 0.03 is the official decay of 0.97; in runs of hundreds of steps its statistics lag so far that AP 0.7
# reads 0.1, so the paper variant takes PyTorch's own and leaves smoothing to the weight average.
NORM_MOMENTUM = {"paper": 0.1, "torchvision": 0.03}
INIT_STD = 0.03
# log(0.01 / 0.99): every class starts out improbable, or thousands of background anchors would swamp the first steps.
INIT_CLASS_BIAS = -4.6


class RawDetections(NamedTuple):
    """What the network says about every anchor."""

    class_logits: Tensor  # [N, A, K]
    box_offsets: Tensor  # [N, A, 4], as det.boxes.encode defines them


class Extra(nn.Module):
    """A further map at half the size: 1x1 to half the channels, 3x3 depthwise of stride 2, 1x1."""

    def __init__(self, in_channels: int, out_channels: int, norm_momentum: float) -> None:
        super().__init__()
        half = out_channels // 2
        norm = {"activation": nn.ReLU6, "norm_momentum": norm_momentum}
        self.reduce = ConvNormAct(in_channels, half, 1, **norm)
        self.depthwise = ConvNormAct(half, half, 3, stride=2, groups=half, **norm)
        self.project = ConvNormAct(half, out_channels, 1, **norm)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> `[N, out_channels, ceil(H/2), ceil(W/2)]`."""
        return self.project(self.depthwise(self.reduce(x)))


class PredictionBlock(nn.Module):
    """`values` numbers for every anchor of a map: 3x3 depthwise, then 1x1 with bias."""

    def __init__(self, in_channels: int, num_anchors: int, values: int, norm_momentum: float) -> None:
        super().__init__()
        self.values = values
        self.depthwise = ConvNormAct(
            in_channels, in_channels, 3, groups=in_channels, activation=nn.ReLU6, norm_momentum=norm_momentum
        )
        self.project = nn.Conv2d(in_channels, num_anchors * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> `[N, H * W * anchors, values]`, cells row by row, the anchors of a cell together."""
        return self.project(self.depthwise(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class SSDLiteHead(nn.Module):
    """Four extra maps after C4 and C5, and class and box predictors on all six; needs only the taps' declarations.

    Arguments:
        c4, c5: channels and stride of the two maps the head is given.
        num_outputs: K, class logits per anchor.
        num_anchors: anchors per cell of each of the six maps.
        width: multiplies the channels of the extra maps.
        norm_momentum: of all batch norms.
    """

    def __init__(
        self,
        c4: Feature,
        c5: Feature,
        *,
        num_outputs: int,
        num_anchors: Sequence[int],
        width: float = 1.0,
        norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        channels = [c4.channels, c5.channels]
        self.extras = nn.ModuleList()
        for extra_channels in EXTRA_CHANNELS:
            out_channels = max(MIN_EXTRA_CHANNELS, int(extra_channels * width))
            self.extras.append(Extra(channels[-1], out_channels, norm_momentum))
            channels.append(out_channels)
        per_map = list(zip(channels, num_anchors, strict=True))
        self.class_predictors = nn.ModuleList(PredictionBlock(c, n, num_outputs, norm_momentum) for c, n in per_map)
        self.box_predictors = nn.ModuleList(PredictionBlock(c, n, 4, norm_momentum) for c, n in per_map)

    def forward(self, c4: Tensor, c5: Tensor) -> RawDetections:
        """C4 `[N, C, H/16, W/16]` and C5 `[N, C, H/32, W/32]` to raw output for all anchors."""
        maps = [c4, c5]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return RawDetections(
            class_logits=torch.cat([predict(x) for predict, x in zip(self.class_predictors, maps, strict=True)], dim=1),
            box_offsets=torch.cat([predict(x) for predict, x in zip(self.box_predictors, maps, strict=True)], dim=1),
        )


class SSDLite(nn.Module):
    """A backbone with an SSDLite head. Made by `create`.

    `anchors` (`[A, 4]`, xyxy pixels) fits inputs of `image_size_hw`; `anchors_for` gives those of any other size.
    `background` says whether column 0 of the class logits is the background; `num_objects` counts the others.
    """

    def __init__(
        self,
        network: Network,
        c4_tap: str,
        num_outputs: int,
        variant: str,
        image_size_hw: tuple[int, int],
        width: float,
    ) -> None:
        super().__init__()
        self.backbone = network
        self.c4_tap = c4_tap
        self.variant = variant
        self.background = variant == "torchvision"
        self.num_objects = num_outputs - self.background
        self.image_size_hw = image_size_hw
        self.head = SSDLiteHead(
            network.features[c4_tap],
            network.features[C5_TAP],
            num_outputs=num_outputs,
            num_anchors=anchors_per_cell(variant),
            width=width,
            norm_momentum=NORM_MOMENTUM[variant],
        )
        self.register_buffer("anchors", self._place(image_size_hw), persistent=False)

    def forward(self, images: Tensor) -> RawDetections:
        """Normalised RGB `[N, 3, H, W]` of any size to raw output, the same in training and evaluation."""
        taps = self.backbone(images)
        return self.head(taps[self.c4_tap], taps[C5_TAP])

    def anchors_for(self, image_size_hw: tuple[int, int]) -> Tensor:
        """The anchors `[A, 4]` of an input of that (height, width): xyxy in its pixels, on the model's device."""
        if tuple(image_size_hw) == self.image_size_hw:
            return self.anchors
        return self._place(image_size_hw).to(self.anchors.device)

    def _place(self, image_size_hw: tuple[int, int]) -> Tensor:
        strides = [self.backbone.features[tap].stride for tap in (self.c4_tap, C5_TAP)]
        strides += [strides[-1] * 2**n for n in range(1, len(EXTRA_CHANNELS) + 1)]
        # Every strided convolution pads by half its kernel, so a map has as many cells as strides begin in the input.
        sizes_hw = [tuple(-(-side // stride) for side in image_size_hw) for stride in strides]
        return place_anchors(sizes_hw, image_size_hw, self.variant)


def create(
    head: str = "ssdlite",
    *,
    backbone: str = "mobilenet_v3_large",
    num_classes: int = 80,
    variant: str = "paper",
    image_size: int | Sequence[int] = 320,
    width: float = 1.0,
    tail: str | None = None,
) -> SSDLite:
    """Build a detector with fresh weights.

    Arguments:
        head: "ssdlite", the only one.
        backbone: "mobilenet_v3_large" or "mobilenet_v3_small".
        num_classes: K, columns of the class logits.
        variant: "paper" has 2034 anchors at 320x320 and K object classes without a column for the background, and its
            class logits start at -4.6; "torchvision" has 3234, and K counts the background as column 0 (91 for COCO's
            ids 1..90), so that torchvision's weights load.
        image_size: side of the network input, or its (height, width), in pixels; fixes `model.anchors` only.
        width: multiplies the channels of the backbone and of the extra maps.
        tail: the backbone's tail, by default "detection": channels between C4 and C5 halved (the paper's dagger);
            "full" is the row without it.

    Raises InputError (a ValueError) for a head, backbone, variant, size or count that is not possible, and what
    `backbone.create` raises for a tail or width.
    """
    if head != "ssdlite":
        raise InputError(f"head {head!r} is unknown; the only one is ssdlite")
    if variant not in NORM_MOMENTUM:
        raise InputError(f"variant {variant!r} is unknown; choose one of {', '.join(NORM_MOMENTUM)}")
    if backbone not in C4_TAPS:
        raise InputError(f"backbone {backbone!r} has no SSDLite; choose one of {', '.join(C4_TAPS)}")
    smallest = 2 if variant == "torchvision" else 1
    if num_classes < smallest:
        raise InputError(f"num_classes is {num_classes}; variant {variant} needs at least {smallest}")
    image_size_hw = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(image_size_hw) != 2 or min(image_size_hw) < 1:
        raise InputError(f"image_size is {image_size}; give one side or (height, width), in pixels")
    c4_tap = C4_TAPS[backbone]
    network = backbones.create(
        backbone,
        width=width,
        tail=tail or "detection",
        taps=(c4_tap, C5_TAP),
        norm_momentum=NORM_MOMENTUM[variant],
    )
    model = SSDLite(network, c4_tap, num_classes, variant, image_size_hw, width)
    if variant == "paper":
        # He's spread where a norm follows: under the norm N(0, 0.03) only makes depthwise weights so small that
        # adaptive optimisers change them by a tenth in one step.
        initialise(model.head)
        for predictor in (*model.head.class_predictors, *model.head.box_predictors):
            nn.init.normal_(predictor.project.weight, std=INIT_STD)
        for predictor in model.head.class_predictors:
            nn.init.constant_(predictor.project.bias, INIT_CLASS_BIAS)
    else:
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=INIT_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return model
