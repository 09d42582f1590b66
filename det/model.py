"""SSDLite: a light head over two taps of a backbone, and the detector made of both (section 6.3 of the paper)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import backbone as backbones
from backbone import Architecture, Feature, InputError, Network
from backbone.architectures.plan import plan, tails
from backbone.blocks import ConvNormAct
from backbone.network import initialise
from det.boxes import RESIZES, RawDetections
from det.heads.anchors import anchors as place_anchors
from det.heads.anchors import anchors_per_cell, pyramid_anchors
from det.heads.ssdlite_fpn import FPNLiteHead

HEADS = ("ssdlite", "ssdlite_fpn")
EXTRA_CHANNELS = (512, 256, 256, 128)
MIN_EXTRA_CHANNELS = 16

# torchvision's 0.03 is the official decay of 0.97; in runs of hundreds of steps its statistics lag so far that AP 0.7
# reads 0.1, so the paper variant takes PyTorch's own and leaves smoothing to the weight average.
NORM_MOMENTUM = {"paper": 0.1, "torchvision": 0.03}
INIT_STD = 0.03
# log(0.01 / 0.99): every class starts out improbable, or thousands of background anchors would swamp the first steps.
INIT_CLASS_BIAS = -4.6


class Extra(nn.Module):
    """A further map at half the size: 1x1 to half the channels, 3x3 depthwise of stride 2, 1x1."""

    def __init__(self, in_channels: int, out_channels: int, norm_momentum: float, padding: str) -> None:
        super().__init__()
        half = out_channels // 2
        norm = {"activation": nn.ReLU6, "norm_momentum": norm_momentum}
        self.reduce = ConvNormAct(in_channels, half, 1, **norm)
        self.depthwise = ConvNormAct(half, half, 3, stride=2, groups=half, padding=padding, **norm)
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
        padding: "symmetric" or "same", as the backbone's; of the strided convolutions, the others being alike.
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
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        channels = [c4.channels, c5.channels]
        self.strides = (c4.stride, c5.stride, *(c5.stride * 2**n for n in range(1, len(EXTRA_CHANNELS) + 1)))
        self.extras = nn.ModuleList()
        for extra_channels in EXTRA_CHANNELS:
            out_channels = max(MIN_EXTRA_CHANNELS, int(extra_channels * width))
            self.extras.append(Extra(channels[-1], out_channels, norm_momentum, padding))
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

    def output_layers(self) -> tuple[list[nn.Conv2d], list[nn.Conv2d]]:
        """The last convolutions: of the classes, of the boxes."""
        return tuple([block.project for block in blocks] for blocks in (self.class_predictors, self.box_predictors))


class Detector(nn.Module):
    """A backbone with an SSDLite or FPN-lite head. Made by `create`.

    `anchors` (`[A, 4]`, xyxy pixels) fits inputs of `image_size_hw`; `anchors_for` gives those of any other size.
    `background` says whether column 0 of the class logits is the background; `num_objects` counts the others.
    `taps` are the maps that the head is given, finest first; `resize` is how images become inputs.
    """

    def __init__(
        self,
        network: Network,
        head: SSDLiteHead | FPNLiteHead,
        num_outputs: int,
        variant: str,
        image_size_hw: tuple[int, int],
        resize: str,
    ) -> None:
        super().__init__()
        self.backbone = network
        self.head = head
        self.taps = tuple(network.features)
        self.variant = variant
        self.background = variant == "torchvision"
        self.num_objects = num_outputs - self.background
        self.image_size_hw = image_size_hw
        self.resize = resize
        self.register_buffer("anchors", self._place(image_size_hw), persistent=False)

    def forward(self, images: Tensor) -> RawDetections:
        """Normalised RGB `[N, 3, H, W]` of any size to raw output, the same in training and evaluation."""
        values = self.backbone(images)
        return self.head(*(values[tap] for tap in self.taps))

    def anchors_for(self, image_size_hw: tuple[int, int]) -> Tensor:
        """The anchors `[A, 4]` of an input of that (height, width): xyxy in its pixels, on the model's device."""
        if tuple(image_size_hw) == self.image_size_hw:
            return self.anchors
        return self._place(image_size_hw).to(self.anchors.device)

    def _place(self, image_size_hw: tuple[int, int]) -> Tensor:
        # Either padding gives a map as many cells as strides begin in the input.
        sizes_hw = [tuple(-(-side // stride) for side in image_size_hw) for stride in self.head.strides]
        if isinstance(self.head, FPNLiteHead):
            return pyramid_anchors(sizes_hw, image_size_hw, self.head.strides)
        return place_anchors(sizes_hw, image_size_hw, self.variant)


def default_taps(architecture: Architecture, strides: Sequence[int]) -> tuple[str, ...]:
    """The deepest value inside the backbone at each of the strides; for its last stride "last", the 1x1 convolution.

    At 16 this is the paper's C4, "the expansion layer of the 13th bottleneck block" of V3-Large, of the 9th of Small.
    """
    deepest = {feature.stride: tap for tap, feature in plan(architecture).features.items()}
    return tuple(deepest[stride] for stride in strides)


def create(
    head: str = "ssdlite",
    *,
    backbone: str = "mobilenet_v3_large",
    num_classes: int = 80,
    variant: str = "paper",
    image_size: int | Sequence[int] = 320,
    width: float = 1.0,
    tail: str | None = None,
    taps: Sequence[str] | None = None,
    head_channels: int = 128,
    padding: str = "symmetric",
    resize: str = "stretch",
) -> Detector:
    """Build a detector with fresh weights.

    Arguments:
        head: "ssdlite" (six maps from stride 16 on), or "ssdlite_fpn" (five from stride 8 on, merged top-down).
        backbone: one of `backbone.names()`.
        num_classes: K, columns of the class logits.
        variant: "paper" has 2034 anchors at 320x320 and K object classes without a column for the background, and its
            class logits start at -4.6; "torchvision" has 3234, and K counts the background as column 0 (91 for COCO's
            ids 1..90), so that torchvision's weights load. "ssdlite_fpn" has 12804 anchors and no torchvision variant.
        image_size: side of the network input, or its (height, width), in pixels; fixes `model.anchors` only.
        width: multiplies the channels of the backbone and of the extra maps.
        tail: the backbone's tail, by default "detection" where it has one: channels between C4 and C5 halved (the
            paper's dagger), "full" being the row without it. Where it has none, the last 1x1 convolution follows the
            width by default (table 6's narrow rows), and is as in the published classifiers with "full".
        taps: where the head taps the backbone, at strides 16 and 32 ("ssdlite") or 8, 16 and 32; by default the
            deepest value inside the backbone at each.
        head_channels: channels of the merged maps and of the predictor, "ssdlite_fpn" only.
        padding: of backbone and head: "symmetric", or "same" as TensorFlow pads.
        resize: how images become inputs of `image_size`, for whoever prepares them: "stretch", or "letterbox" (as
            large as fits, centred on grey).

    Raises InputError (a ValueError) for a head, backbone, variant, size, count or tap that is not possible, and what
    `backbone.create` raises for a tail, width or padding.
    """
    if head not in HEADS:
        raise InputError(f"head {head!r} is unknown; choose one of {', '.join(HEADS)}")
    if variant not in NORM_MOMENTUM:
        raise InputError(f"variant {variant!r} is unknown; choose one of {', '.join(NORM_MOMENTUM)}")
    if head == "ssdlite_fpn" and variant != "paper":
        raise InputError(f"head ssdlite_fpn has no variant {variant!r}; use variant paper")
    if resize not in RESIZES:
        raise InputError(f"resize {resize!r} is unknown; choose one of {', '.join(RESIZES)}")
    smallest = 2 if variant == "torchvision" else 1
    if num_classes < smallest:
        raise InputError(f"num_classes is {num_classes}; variant {variant} needs at least {smallest}")
    image_size_hw = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(image_size_hw) != 2 or min(image_size_hw) < 1:
        raise InputError(f"image_size is {image_size}; give one side or (height, width), in pixels")
    strides = (16, 32) if head == "ssdlite" else (8, 16, 32)
    architecture = backbones.architecture(backbone)
    known: str | Architecture = backbone
    if tail is None:
        tail = "detection" if "detection" in tails(architecture) else "full"
        if tail == "full" and width < 1:
            known = architecture._replace(last_width="scaled")
    network = backbones.create(
        known,
        width=width,
        tail=tail,
        taps=taps or default_taps(architecture, strides),
        norm_momentum=NORM_MOMENTUM[variant],
        padding=padding,
    )
    features = tuple(network.features.values())
    if tuple(feature.stride for feature in features) != strides:
        found = ", ".join(f"{tap} (stride {feature.stride})" for tap, feature in network.features.items())
        raise InputError(f"taps are {found}; head {head} takes one at each of the strides {strides}, in this order")
    common = {"num_outputs": num_classes, "norm_momentum": NORM_MOMENTUM[variant], "padding": padding}
    if head == "ssdlite":
        built = SSDLiteHead(*features, num_anchors=anchors_per_cell(variant), width=width, **common)
    else:
        built = FPNLiteHead(features, head_channels=head_channels, **common)
    model = Detector(network, built, num_classes, variant, image_size_hw, resize)
    if variant == "paper":
        # He's spread where a norm follows: under the norm N(0, 0.03) only makes depthwise weights so small that
        # adaptive optimisers change them by a tenth in one step.
        initialise(model.head)
        class_layers, box_layers = built.output_layers()
        for layer in (*class_layers, *box_layers):
            nn.init.normal_(layer.weight, std=INIT_STD)
        for layer in class_layers:
            nn.init.constant_(layer.bias, INIT_CLASS_BIAS)
    else:
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=INIT_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return model
