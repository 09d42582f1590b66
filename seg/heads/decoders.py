"""Decoders of segmentation-models-pytorch as heads: U-Net, FPN, DeepLabV3+ and others."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from backbone.architectures.plan import Feature
from backbone.errors import InputError

ATROUS_RATES = (12, 24, 36)


class Decoder(NamedTuple):
    """How one of the library's decoders is built; what no column gives is the library's default."""

    make: Callable[[list[int], int, int], nn.Module]  # (channels at strides 1 to 32, head_channels, output stride)
    head_channels: int  # the default
    multiple: int  # head_channels must be a multiple of it
    output_strides: tuple[int, ...]  # that it accepts, the default first
    stride: int  # of the logits; 0: the output stride
    kernel: int  # of the classifying convolution
    least: int = 1  # smallest side of the deepest feature map


def _halved(head_channels: int) -> list[int]:
    """Channels of a decoder that halves them at each of its five levels."""
    return [head_channels >> level for level in range(5)]


def _fpn(channels: list[int], head_channels: int, stride: int) -> nn.Module:
    return FPNDecoder(channels, pyramid_channels=2 * head_channels, segmentation_channels=head_channels)


def _deeplab(channels: list[int], head_channels: int, stride: int) -> nn.Module:
    return DeepLabV3Decoder(channels[-1], head_channels, ATROUS_RATES, aspp_separable=False, aspp_dropout=0.5)


def _deeplab_plus(channels: list[int], head_channels: int, stride: int) -> nn.Module:
    output_stride = 8 if stride == 8 else 16
    return DeepLabV3PlusDecoder(
        channels, 5, head_channels, ATROUS_RATES, output_stride, aspp_separable=True, aspp_dropout=0.5
    )


def _unet(channels: list[int], head_channels: int, stride: int) -> nn.Module:
    return UnetDecoder(channels, _halved(head_channels))


def _manet(channels: list[int], head_channels: int, stride: int) -> nn.Module:
    return MAnetDecoder(channels, _halved(head_channels))


DECODERS = {
    # make, head_channels, multiple, output_strides, stride, kernel
    "deeplabv3": Decoder(_deeplab, 256, 1, (16, 8), 0, 1),
    "deeplabv3plus": Decoder(_deeplab_plus, 256, 1, (16, 8), 4, 1),
    "fpn": Decoder(_fpn, 128, 32, (32,), 4, 1),
    "linknet": Decoder(lambda channels, inner, _: LinknetDecoder(channels, inner), 32, 1, (32,), 1, 1),
    "manet": Decoder(_manet, 256, 16, (32,), 1, 3),
    "pan": Decoder(lambda channels, inner, _: PANDecoder(channels, 5, inner), 32, 1, (16, 32), 4, 3, least=8),
    "pspnet": Decoder(lambda channels, inner, _: PSPDecoder(channels, out_channels=inner), 512, 1, (8, 16, 32), 0, 3),
    "segformer": Decoder(lambda channels, inner, _: SegformerDecoder(channels, 5, inner), 256, 1, (32, 16, 8), 4, 1),
    "unet": Decoder(_unet, 256, 16, (32, 16, 8), 1, 3),
    "upernet": Decoder(lambda channels, inner, _: UPerNetDecoder(channels, 5, inner), 256, 1, (32, 16, 8), 4, 1),
}


class DecoderHead(nn.Module):
    """A decoder on features of strides 2 to 32, then the classifying convolution.

    Arguments:
        name: a key of `DECODERS`.
        features: channels and strides of the five features, finest first.
        head_channels: the decoder's own channels.
        dropout: probability of dropping a channel before the classifying convolution.

    Raises:
        InputError: `head_channels` is not the multiple that the decoder needs.
    """

    def __init__(
        self, name: str, features: Sequence[Feature], *, num_classes: int, head_channels: int, dropout: float
    ) -> None:
        super().__init__()
        decoder = DECODERS[name]
        if head_channels % decoder.multiple:
            raise InputError(
                f"head_channels {head_channels} must be a multiple of {decoder.multiple} for head {name!r}"
            )
        output_stride = features[-1].stride
        channels = [3, *(feature.channels for feature in features)]
        self.decoder = decoder.make(channels, head_channels, output_stride)
        self.dropout = nn.Dropout2d(dropout)
        last = _halved(head_channels)[-1] if name in ("unet", "manet") else head_channels
        self.classify = nn.Conv2d(last, num_classes, decoder.kernel, padding=decoder.kernel // 2)
        self.stride = decoder.stride or output_stride
        self.multiple, self.least = 32, decoder.least * output_stride
        initialize_decoder(self.decoder)
        initialize_head(self.classify)

    def forward(self, *features: Tensor) -> Tensor:
        """Features [N, C, H/2, W/2], … [N, C, H/s, W/s] -> logits [N, num_classes, H/stride, W/stride]."""
        count, _, height, width = features[0].shape
        full = features[0].new_empty((count, 0, 2 * height, 2 * width))  # decoders read the image's size from it
        return self.classify(self.dropout(self.decoder([full, *features])))
