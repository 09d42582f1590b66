"""Our networks as encoders of segmentation-models-pytorch, registered as "taproot-" and the architecture's name.

import seg.encoders
import segmentation_models_pytorch as smp

smp.Unet("taproot-mobilenet_v3_large", encoder_weights=None, classes=19)
"""

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor, nn

import backbone as backbones
from backbone import InputError
from seg.heads.taps import pyramid

PREFIX = "taproot-"


class Encoder(nn.Module, EncoderMixin):
    """A network as the library's encoder: its features at strides 2, 4, 8, 16 and 32 (`seg.heads.taps.pyramid`).

    Arguments:
        name: one of `backbone.names()`.
        depth: how many of the five features, 1 to 5.
        output_stride: 8, 16 or 32; strides beyond it become dilations.
        tail, width: as `backbone.create`.

    Raises:
        InputError: the depth is out of range, or what `backbone.create` raises.
    """

    def __init__(
        self, name: str, *, depth: int = 5, output_stride: int = 32, tail: str = "full", width: float = 1.0
    ) -> None:
        super().__init__()
        if not 1 <= depth <= 5:
            raise InputError(f"depth {depth} must be 1 to 5")
        self._arguments = {"tail": tail, "width": width, "taps": pyramid(backbones.architecture(name))[:depth]}
        self.network = backbones.create(name, output_stride=output_stride, **self._arguments)
        self._depth, self._output_stride, self._in_channels = depth, output_stride, 3
        self._out_channels = [3, *(feature.channels for feature in self.network.features.values())]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [N, C, H, W] -> the images, then features [N, C', H/2, W/2], [N, C'', H/4, W/4], …."""
        return [images, *self.network(images).values()]

    def make_dilated(self, output_stride: int) -> None:
        """Replaces strides beyond `output_stride` by dilations; the weights stay."""
        if output_stride == self._output_stride:
            return
        network = backbones.create(
            self.network.name, output_stride=output_stride, in_channels=self._in_channels, **self._arguments
        )
        network.load_state_dict(self.network.state_dict())
        self.network, self._output_stride = network, output_stride


def register() -> None:
    """Makes every architecture known to `smp.encoders.get_encoder`; importing this module does it."""
    for name in backbones.names():
        smp.encoders.encoders[PREFIX + name] = {
            "encoder": Encoder,
            "params": {"name": name},
            "pretrained_settings": {},  # weights are files: backbone.load_weights(model.encoder.network, file)
        }


register()
