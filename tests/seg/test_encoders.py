"""Every network family under every decoder of segmentation-models-pytorch, by the library's own interface."""

import pytest
import segmentation_models_pytorch as smp
import torch

import seg.encoders  # noqa: F401 - registers the encoders

DECODERS = [
    *(smp.DeepLabV3, smp.DeepLabV3Plus, smp.FPN, smp.Linknet, smp.MAnet),
    *(smp.PAN, smp.PSPNet, smp.Segformer, smp.Unet, smp.UnetPlusPlus, smp.UPerNet),
]
FAMILIES = ["chamnet_f", "fbnet_c", "mnasnet_small", "mobilenet_v1", "mobilenet_v3_large", "mobilenet_v4_conv_small"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_decoder_of_the_library_runs_on_every_family(name):
    images = torch.randn(1, 3, 128, 128)  # PAN halves a map of stride 16 three times
    for decoder in DECODERS:
        model = decoder(f"taproot-{name}", encoder_weights=None, classes=2).eval()
        with torch.no_grad():
            assert model(images).shape == (1, 2, 128, 128), decoder
