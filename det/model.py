"""Detectors: a backbone, and a head on its taps."""

from collections.abc import Sequence

from torch import Tensor, nn

import backbone as backbones
from backbone.architectures.plan import tails
from backbone.errors import InputError, check_choice
from det.boxes import DualDetections, RawDetections
from det.heads import INIT_STD, NORM_MOMENTUM, PICO_SIZES, Head, build_head, required_taps
from det.heads.pico import PicoHead
from det.options import RESIZES, VARIANTS


class Detector(nn.Module):
    """A backbone and a head; made by `create`.

    `taps` are the features that the head takes, finest first. `anchors` [A, 4], xyxy in pixels, belong to inputs of
    `image_size_hw`; `anchors_for` gives those of any other size. `background` tells whether column 0 of the class
    logits is the background; `num_objects` counts the other columns. `resize` is how images become inputs.
    """

    anchors: Tensor

    def __init__(
        self,
        network: backbones.Network,
        head: Head,
        *,
        taps: tuple[str, ...],
        num_classes: int,
        variant: str,
        image_size_hw: tuple[int, int],
        resize: str,
    ) -> None:
        super().__init__()
        self.backbone = network
        self.head = head
        self.taps = taps
        self.variant = variant
        self.background = variant != "paper"
        self.num_objects = num_classes - self.background
        self.image_size_hw = image_size_hw
        self.resize = resize
        self.register_buffer("anchors", head.anchors(image_size_hw), persistent=False)

    def forward(self, images: Tensor, both: bool = False) -> RawDetections | DualDetections:
        """Normalised images [N, 3, H, W] of any size -> class logits [N, A, K] and box offsets [N, A, 4].

        With `both`, for a training loss, these of the one-to-many and of the one-to-one predictors.
        """
        features = self.backbone(images)
        taps = [features[tap] for tap in self.taps]
        return self._dual_head().both(*taps) if both else self.head(*taps)

    @property
    def one_to_one(self) -> bool:
        """Whether there are one-to-one predictors beside the others."""
        return isinstance(self.head, PicoHead) and self.head.one_to_one is not None

    def keep(self, *, one_to_one: bool) -> None:
        """Leaves one set of predictors, for prediction: `forward` gives its output, the other is dropped.

        Arguments:
            one_to_one: the set for boxes without NMS (`nms_iou` None in post-processing), which for a pico head without
                one-to-one predictors is the only one; else the other.

        Raises:
            InputError: the head has anchors, whose boxes need NMS.
        """
        if isinstance(self.head, PicoHead):
            self.head.keep(one_to_one=one_to_one)
        elif one_to_one:
            raise InputError("the boxes of a head with anchors need NMS; train a pico head")

    def _dual_head(self) -> PicoHead:
        if not isinstance(self.head, PicoHead) or self.head.one_to_one is None:
            raise InputError("the model has no one-to-one predictors; train a pico head with model.one_to_one=true")
        return self.head

    def anchors_for(self, image_size_hw: tuple[int, int]) -> Tensor:
        """The anchors [A, 4] of an input of (height, width): xyxy in its pixels, on the model's device."""
        if tuple(image_size_hw) == self.image_size_hw:
            return self.anchors
        return self.head.anchors(image_size_hw).to(self.anchors.device)


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
    one_to_one: bool = False,
) -> Detector:
    """A detector with fresh weights: images [N, 3, H, W] -> class logits [N, A, K] and box offsets [N, A, 4].

    Arguments:
        head: "ssdlite" (six maps from stride 16 on), "ssdlite_fpn" (five from stride 8 on, merged top-down), "pico96"
            or "pico128" (PicoDet's: four from stride 8 on, merged both ways; one cell per place instead of anchors).
        backbone: one of `backbone.names()`, or a network in strings as `backbone.parse` reads them.
        num_classes: K, columns of the class logits.
        variant: "paper" has 2034 anchors at 320x320 and K object classes without a background column; its class
            logits start at -4.6. "torchvision" has 3234, and K counts the background as column 0 (91 for COCO's ids
            1..90), so that torchvision's weights load; "paddle" has 2434, counts likewise, and has the extra maps of
            PaddleDetection's SSDLite; both are of "ssdlite" only. "ssdlite_fpn" has 12804 anchors.
        image_size: side of the network input, or its (height, width), in pixels; determines `model.anchors` only.
        width: multiplies the channels of the backbone and of the extra maps.
        tail: the backbone's tail, by default "detection" where it has one: channels between C4 and C5 halved (the
            paper's dagger), "full" being the row without it; for the pico heads "full". Where it has none, the last
            1x1 convolution follows the width by default (table 6's narrow rows), and is as in the published
            classifiers with "full".
        taps: the backbone's taps that the head takes, at strides 16 and 32 ("ssdlite") or 8, 16 and 32; by default the
            deepest value inside the backbone at each; for the pico heads the last block's output.
        head_channels: channels of the merged maps and of the predictor, "ssdlite_fpn" only.
        padding: of backbone and head: "symmetric", or "same" as TensorFlow pads.
        resize: how images become inputs of `image_size`, for whoever prepares them: "stretch", or "letterbox" (as
            large as fits, centered on gray).
        one_to_one: a second set of predictors, trained beside the first to give each object one box, for prediction
            without NMS (`Detector.keep`); the pico heads only.

    Raises:
        InputError: an unknown name, or a number, size or tap that does not fit; the message lists the valid ones.
    """
    check_choice("variant", variant, VARIANTS)
    check_choice("resize", resize, RESIZES)
    image_size_hw = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(image_size_hw) != 2 or min(image_size_hw) < 1:
        raise InputError(f"image_size is {image_size}; give one side or (height, width), in pixels")
    architecture = backbones.architecture(backbone)
    needed = required_taps(head, architecture)
    body: str | backbones.Architecture = backbone
    if tail is None:
        tail = default_tail(head, architecture)
        if tail == "full" and width < 1:
            body = architecture._replace(last_width="scaled")
    network = backbones.create(
        body, width=width, tail=tail, taps=taps or needed, norm_momentum=NORM_MOMENTUM[variant], padding=padding
    )
    built = build_head(
        head,
        list(network.features.values()),
        num_classes=num_classes,
        variant=variant,
        width=width,
        head_channels=head_channels,
        padding=padding,
        one_to_one=one_to_one,
    )
    model = Detector(
        network,
        built,
        taps=tuple(network.features),
        num_classes=num_classes,
        variant=variant,
        image_size_hw=image_size_hw,
        resize=resize,
    )
    if variant == "torchvision":
        _initialise_like_torchvision(model)
    return model


def default_tail(head: str, architecture: backbones.Architecture) -> str:
    """The backbone's last stage that `create` takes for a head where none is asked for."""
    return "detection" if "detection" in tails(architecture) and head not in PICO_SIZES else "full"


def _initialise_like_torchvision(model: Detector) -> None:
    """Every convolution from N(0, 0.03), the backbone's too; biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=INIT_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
