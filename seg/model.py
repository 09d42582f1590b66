"""Segmentation models: a backbone, and a head on its taps."""

from torch import Tensor, nn
from torch.nn import functional as F

import backbone as backbones
from backbone.architectures.plan import tails
from backbone.errors import InputError
from seg.heads import OUTPUT_STRIDES, Head, build_head, required_taps
from seg.heads.auxiliary import AuxiliaryHead
from seg.heads.taps import auxiliary_tap
from seg.resizing import resize, upsample

__all__ = ["Segmenter", "create", "upsample"]

NORM_MOMENTUM = {
    # The official 0.01 presumes 100k steps: in short runs the running statistics lag. The weight average smooths too.
    "paper": 0.1,
    "torchvision": 0.01,
    "paddle": 0.1,
}


class Segmenter(nn.Module):
    """A backbone and a head; made by `create`.

    `taps` are the features that the head takes, in its order; `stride` is that of the logits, in pixels.
    """

    def __init__(
        self,
        network: backbones.Network,
        head: Head,
        *,
        taps: tuple[str, ...],
        auxiliary: AuxiliaryHead | None,
        auxiliary_tap: str,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.backbone = network
        self.head = head
        self.auxiliary = auxiliary
        self.taps, self.auxiliary_tap = taps, auxiliary_tap
        self.coarsest = max(feature.stride for feature in network.features.values())
        self.align_corners = align_corners
        self.stride: int = 1 if align_corners else head.stride

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Normalised images [N, 3, H, W] -> logits [N, num_classes, ceil(H/stride), ceil(W/stride)].

        With `auxiliary`, for a training loss, a pair of these and the auxiliary head's logits
        [N, num_classes, ceil(H/s), ceil(W/s)], where s is 16 (8 at output stride 8).
        """
        height, width = images.shape[-2:]
        if self.align_corners:  # with k * coarsest + 1 pixels the maps of all strides end on the image's last pixel
            bottom, right = (_padding(side - 1, self.coarsest, self.coarsest) for side in (height, width))
            images = F.pad(images, (0, right, 0, bottom))
        elif self.head.multiple > 1:  # zero is the mean of normalised images
            bottom, right = (_padding(side, self.head.multiple, self.head.least) for side in (height, width))
            images = F.pad(images, (0, right, 0, bottom))
        features = self.backbone(images)
        logits = self.head(*(features[tap] for tap in self.taps))
        if self.align_corners:
            logits = resize(logits, images.shape[-2:], align_corners=True)
        logits = logits[..., : -(-height // self.stride), : -(-width // self.stride)]
        if auxiliary:
            if self.auxiliary is None:
                raise InputError("the model has no auxiliary head; create it with auxiliary=True")
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
    align_corners: bool = False,
) -> Segmenter:
    """A segmentation model with fresh weights: images [N, 3, H, W] -> logits [N, num_classes, H/stride, W/stride].

    Arguments:
        head: "lraspp", "raspp" (MobileNetV2's), "fuse" (wide context, refined at stride 8), or a decoder of
            segmentation-models-pytorch; see `seg.options.HEADS`.
        backbone: one of `backbone.names()`, or a network in strings as `backbone.parse` reads them.
        variant: of LR-ASPP: "paper", "torchvision" with the numbers and weights of `lraspp_mobilenet_v3_large`, or
            "paddle", PaddleSeg's, which also merges the stride-4 features (its best models have output stride 8).
        width: multiplies the backbone's channels.
        tail: the backbone's last stage; by default "segmentation" for the paper's heads and "fuse" where the
            architecture has it, else "full".
        output_stride: of the deepest tap: 8, 16 or 32; by default 16, or the decoder's usual one.
        head_channels: channels inside the head (the paper's F: 128 or 256); by default the head's own.
        pooling: of LR-ASPP: "windows" (49x49) or "global"; by default the variant's.
        dropout: probability of dropping a channel before the classifying convolution.
        auxiliary: build a second head to train beside the first; see `Segmenter.forward`.
        padding: of the backbone's strided convolutions: "symmetric", or "same" as TensorFlow pads.
        align_corners: of LR-ASPP, as DeepLab's checkpoints were trained: the image is padded with zeros to sides of
            k * stride + 1 pixels, maps are resized with aligned corners, and the logits have the image's size
            (`stride` is 1). By default maps are resized with half-pixel centers.

    Raises:
        InputError: an unknown name, or a number or stride that does not fit; the message lists the valid ones.
    """
    architecture = backbones.architecture(backbone)
    taps = required_taps(head, architecture, variant)
    if tail is None:
        tail = default_tail(head, architecture, variant)
    extra = auxiliary_tap(architecture)
    network = backbones.create(
        backbone,
        width=width,
        tail=tail,
        output_stride=output_stride or OUTPUT_STRIDES[head][0],
        taps=tuple(dict.fromkeys((*taps, extra))) if auxiliary else taps,
        dilate_strided_block=variant == "torchvision",
        norm_momentum=NORM_MOMENTUM[variant],
        padding=padding,
    )
    built = build_head(
        head,
        [network.features[tap] for tap in taps],
        num_classes=num_classes,
        variant=variant,
        head_channels=head_channels,
        pooling=pooling,
        dropout=dropout,
        align_corners=align_corners,
    )
    second = AuxiliaryHead(network.features[extra], num_classes=num_classes) if auxiliary else None
    return Segmenter(network, built, taps=taps, auxiliary=second, auxiliary_tap=extra, align_corners=align_corners)


def default_tail(head: str, architecture: backbones.Architecture, variant: str = "paper") -> str:
    """The backbone's last stage that `create` takes for a head where none is asked for."""
    light = variant == "paper" and head in ("lraspp", "raspp", "fuse")
    return "segmentation" if light and "segmentation" in tails(architecture) else "full"


def _padding(side: int, multiple: int, least: int) -> int:
    """How many pixels a side lacks to a multiple of `multiple` that is at least `least`."""
    return max(least, -(-side // multiple) * multiple) - side
