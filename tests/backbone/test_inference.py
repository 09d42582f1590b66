"""The torch engine equals the plain model; sizes of a network's input."""

import numpy as np
import pytest
import torch

import det
import seg
from backbone.errors import InputError
from backbone.fused import FusedConv2d, can_fuse
from backbone.inference import TorchEngine, check_size, input_size, normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODELS = {
    "lraspp": lambda: seg.create(backbone="mobilenet_v3_small", num_classes=4),
    "raspp_same": lambda: seg.create("raspp", backbone="mobilenet_v2", num_classes=4, width=0.35, padding="same"),
    "deeplabv3plus": lambda: seg.create("deeplabv3plus", backbone="mobilenet_v4_conv_small", num_classes=4),
    "lite0": lambda: seg.create(backbone="efficientnet_lite0", num_classes=4),
    "ssdlite": lambda: det.create(backbone="mobilenet_v3_small", num_classes=5, width=0.35),
    "pico": lambda: det.create("pico96", backbone="mobilenet_v3_small", num_classes=5),
    "fuse": lambda: seg.create("fuse", backbone="mobilenet_v3_small", num_classes=4),
    "ssdlite_fpn": lambda: det.create("ssdlite_fpn", backbone="mobilenet_v3_small", num_classes=5, head_channels=32),
    "tapped_before_squeeze": lambda: det.create(
        backbone="mobilenet_v3_small", num_classes=5, taps=("8.depthwise", "last")
    ),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_torch_engine_gives_what_the_model_gives(name, randomise):
    torch.manual_seed(0)
    model = randomise(MODELS[name]())
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8))
    expected = model(normalise(frames.flip(-1).permute(0, 3, 1, 2), MEAN, STD))
    engine = TorchEngine(model, mean=MEAN, std=STD)
    assert any(isinstance(module, FusedConv2d) for module in engine.modules()) == can_fuse()
    found = engine(frames)
    for ours, theirs in zip(*((v,) if torch.is_tensor(v) else v for v in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@torch.no_grad()
def test_the_torch_engine_takes_sizes_in_turn(randomise):
    model = randomise(MODELS["lite0"]())
    engine = TorchEngine(model, mean=MEAN, std=STD)
    for height, width in ((64, 96), (96, 64), (64, 96), (160, 192)):
        frames = torch.from_numpy(np.random.default_rng(height).integers(0, 256, (1, height, width, 3), np.uint8))
        expected = model(normalise(frames.flip(-1).permute(0, 3, 1, 2), MEAN, STD))
        torch.testing.assert_close(engine(frames), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_longer_side_keeps_the_proportions():
    assert input_size(1024, (720, 1280), (720, 1280)) == (576, 1024)
    assert input_size(320, (1280, 720), (300, 300)) == (320, 192)
    assert input_size(64, (10, 1000), (10, 1000)) == (32, 64)
    assert input_size((96, 128), (720, 1280), (1, 1)) == (96, 128)
    assert input_size(None, (720, 1280), (320, 320)) == (320, 320)


@pytest.mark.parametrize("size", [0, 31, -5, 20000, (320,), (320, 320, 3), (320, 0), 320.5, (320.0, 320), True, "320"])
def test_bad_sizes_are_refused_in_one_line(size):
    with pytest.raises(InputError, match=r"size .*pixels$"):
        check_size(size)
