"""Segmentation models: a network, a head on its taps, and what an image's size asks of them."""

from torch import Tensor, nn
from torch.nn import functional as F

import backbone as backbones
from backbone import InputError
from backbone.architectures.plan import tails
from seg.heads.decoders import DECODERS, DecoderHead
from seg.heads.lraspp import AuxiliaryHead, LRASPPHead, RASPPHead, resized, upsample
from seg.heads.taps import auxiliary_tap, high_tap, low_tap, pyramid

HEADS = ("lraspp", "raspp", *DECODERS)
VARIANTS = ("paper", "torchvision")
POOLINGS = ("windows", "global")
ALIGNMENTS = ("centres", "corners")

__all__ = ["Segmenter", "create", "upsample"]


class Segmenter(nn.Module):
    """A network and a head; make one with `create`. `stride` is that of its logits."""

    def __init__(
        self,
        network: backbones.Network,
        head: nn.Module,
        *,
        taps: tuple[str, ...],
        auxiliary: AuxiliaryHead | None,
        auxiliary_tap: str,
        alignment: str,
    ) -> None:
        super().__init__()
        self.backbone = network
        self.head = head
        self.auxiliary = auxiliary
        self.taps, self.auxiliary_tap = taps, auxiliary_tap
        self.coarsest = max(feature.stride for feature in network.features.values())
        self.alignment = alignment
        self.stride: int = 1 if alignment == "corners" else head.stride

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Normalised images [N, 3, H, W] -> logits [N, num_classes, ceil(H/stride), ceil(W/stride)].

        With `auxiliary`, which a training loss asks for, also the auxiliary head's logits, of a coarser stride.
        """
        height, width = images.shape[-2:]
        if self.alignment == "corners":  # a map of any stride then ends with the image's last pixel
            bottom, right = (_padding(side - 1, self.coarsest, self.coarsest) for side in (height, width))
            images = F.pad(images, (0, right, 0, bottom))
        elif self.head.multiple > 1:  # zero is the mean of normalised images
            bottom, right = (_padding(side, self.head.multiple, self.head.least) for side in (height, width))
            images = F.pad(images, (0, right, 0, bottom))
        features = self.backbone(images)
        logits = self.head(*(features[tap] for tap in self.taps))
        if self.alignment == "corners":
            logits = resized(logits, images.shape[-2:], "corners")
        logits = logits[..., : -(-height // self.stride), : -(-width // self.stride)]
        if auxiliary:
            return logits, self.auxiliary(features[self.auxiliary_tap])
        return logits


def create(
    head: str = "lraspp",
    *,
    backbone: str = "mobilenet_v3_large",
    num_classes: int = 19,
    variant: str = "paper",
    width: float = 1.0,
    tail: str | None = None,
    output_stride: int | None = None,
    head_channels: int | None = None,
    pooling: str | None = None,
    dropout: float = 0.0,
    auxiliary: bool = False,
    padding: str = "symmetric",
    alignment: str = "centres",
) -> Segmenter:
    """A segmentation model: images [N, 3, H, W] -> logits [N, num_classes, H/stride, W/stride].

    Arguments:
        head: "lraspp", "raspp" (the paper's other head), or a decoder of segmentation-models-pytorch, see `DECODERS`.
        backbone: one of `backbone.names()`.
        variant: of LR-ASPP: "paper", or "torchvision" with the numbers and weights of `lraspp_mobilenet_v3_large`.
        width: multiplies the backbone's channels.
        tail: the backbone's last stage; by default "segmentation" for the paper's heads where the architecture has
            it, else "full".
        output_stride: of the deepest tap: 8, 16 or 32; by default 16 or what the decoder is known with.
        head_channels: channels inside the head (the paper's F: 128 or 256); by default the head's own.
        pooling: of LR-ASPP: "windows" (49x49) or "global"; by default the variant's.
        dropout: probability of leaving out a channel before the classifying convolution.
        auxiliary: build a second head that can be trained beside the first; see `Segmenter.forward`.
        padding: of the backbone's strided convolutions: "symmetric", or "same" as TensorFlow pads.
        alignment: how LR-ASPP's maps and the image lie over each other: "centres", by half-pixel centres; "corners",
            as DeepLab's checkpoints were trained: the image is padded by zeros to a side of k strides + 1 pixels,
            maps are resized with their corner values fixed, and the logits come at the image's size (`stride` 1).
    Raises:
        InputError: an unknown name; the message lists the valid ones.
    """
    for name, value, valid in (
        ("head", head, HEADS),
        ("backbone", backbone, backbones.names()),
        ("variant", variant, VARIANTS),
        ("pooling", pooling, (None, *POOLINGS)),
        ("alignment", alignment, ALIGNMENTS),
    ):
        if value not in valid:
            raise InputError(f"{name} {value!r} unknown; valid: {', '.join(filter(None, valid))}")
    strides = DECODERS[head].strides if head in DECODERS else (16, 8, 32)
    output_stride = output_stride or strides[0]
    if output_stride not in strides:
        raise InputError(
            f"output_stride {output_stride} does not fit head {head!r}; valid: {', '.join(map(str, strides))}"
        )
    if head in DECODERS:
        head_channels = head_channels or DECODERS[head].head_channels
    elif head_channels is None:
        head_channels = {"lraspp": 128, "raspp": 256}[head]
    for name, value in (("num_classes", num_classes), ("head_channels", head_channels)):
        if value < 1:
            raise InputError(f"{name} {value} must be at least 1")
    if alignment == "corners" and head != "lraspp":
        raise InputError(f"alignment 'corners' does not fit head {head!r}; it is for lraspp")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout {dropout} must be at least 0 and below 1")

    official = variant == "paper" and head not in DECODERS
    table = backbones.architecture(backbone)
    if tail is None:
        tail = "segmentation" if official and "segmentation" in tails(table) else "full"
    if head == "lraspp":
        taps = (low_tap(table, variant), high_tap(table))
    else:
        taps = (high_tap(table),) if head == "raspp" else pyramid(table)
    extra = auxiliary_tap(table)
    network = backbones.create(
        backbone,
        width=width,
        tail=tail,
        output_stride=output_stride,
        taps=tuple(dict.fromkeys((*taps, extra))) if auxiliary else taps,
        dilate_strided_block=variant == "torchvision",
        # The official 0.01 presumes 100k steps and lags in short runs; the weight average smooths as well.
        norm_momentum={"paper": 0.1, "torchvision": 0.01}[variant],
        padding=padding,
    )
    features = [network.features[tap] for tap in taps]
    common = {"num_classes": num_classes, "head_channels": head_channels, "dropout": dropout}
    if head == "lraspp":
        pooling = pooling or {"paper": "windows", "torchvision": "global"}[variant]
        module = LRASPPHead(*features, pooling=pooling, alignment=alignment, official=official, **common)
    elif head == "raspp":
        module = RASPPHead(*features, **common)
    else:
        module = DecoderHead(head, features, output_stride=output_stride, **common)
    second = AuxiliaryHead(network.features[extra], num_classes=num_classes) if auxiliary else None
    return Segmenter(network, module, taps=taps, auxiliary=second, auxiliary_tap=extra, alignment=alignment)


def _padding(side: int, multiple: int, least: int) -> int:
    """By how much a side grows to be a multiple and not below the least."""
    return max(least, -(-side // multiple) * multiple) - side
