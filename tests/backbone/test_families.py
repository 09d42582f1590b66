"""Every family against timm and torchvision: sizes, logits at any size and padding, taps, compiling, exporting."""

import copy
import json

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import backbone
from backbone import InputError
from backbone.architectures.plan import plan
from backbone.blocks import SameConv2d
from tests.builders.comparing import largest_difference
from tests.builders.published_networks import TIMM, TORCHVISION

FAMILIES = [
    "chamnet_f",
    "efficientnet_lite1",
    "fbnet_c",
    "mnasnet_small",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_small_minimalistic",
    "mobilenet_v3_small_se_before_activation",
    "mobilenet_v4_conv_small",
    "single_path_nas",
]


def published(theirs: str, padding: str) -> nn.Module:
    """A timm network of 10 classes with the norm epsilon that its published file was trained with."""
    tensorflow = padding == "same" or theirs in ("fbnetc_100", "mobilenetv3_rw")
    pad_type = "same" if padding == "same" else ""
    return timm.create_model(theirs, num_classes=10, pad_type=pad_type, bn_eps=1e-3 if tensorflow else 1e-5)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("case", TIMM, ids=lambda case: case[0])
def test_equals_timms(case, padding, randomise):
    theirs_name, name, width, fixed_stem = case
    theirs = randomise(published(theirs_name, padding))
    found = backbone.from_weights(theirs.state_dict(), padding=padding)
    assert (found.name, found.width, found.layout) == (name, width, "timm")
    assert sum(p.numel() for p in found.classifier.parameters()) == sum(p.numel() for p in theirs.parameters())
    stem = plan(backbone.architecture(name), width=width, fixed_stem=fixed_stem).features["stem"].channels
    assert found.classifier.backbone.stem.conv.out_channels == stem
    assert largest_difference(found.classifier, theirs) < 1e-4


def test_the_padding_shows_in_the_logits(randomise):
    theirs = randomise(published("mobilenetv2_100", "same"))
    symmetric = backbone.from_weights(theirs.state_dict(), padding="symmetric", norm_eps=1e-3)
    assert largest_difference(symmetric.classifier, theirs) > 1e-3


@pytest.mark.parametrize("case", TORCHVISION, ids=lambda case: case[0])
def test_equals_torchvisions(case, randomise):
    theirs_name, name, width = case
    theirs = randomise(getattr(torchvision.models, theirs_name)(weights=None, num_classes=10))
    found = backbone.from_weights(theirs.state_dict())
    assert (found.name, found.width, found.layout) == (name, width, "torchvision")
    assert largest_difference(found.classifier, theirs) < 1e-4


def test_weights_of_another_norm_epsilon_give_their_own_numbers(randomise):
    theirs = randomise(torchvision.models.mobilenet_v2(weights=None, num_classes=10))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.mul_(0.01)  # small enough that the epsilon counts
            with torch.no_grad():
                module.weight.mul_(0.1)
                module.bias.mul_(0.5)
    ours = backbone.classifier("mobilenet_v2", num_classes=10)
    assert ours.backbone.stem.norm.eps != theirs.features[0][1].eps
    backbone.load_weights(ours, theirs.state_dict())
    assert largest_difference(ours, theirs) < 1e-4
    backbone.load_weights(ours, theirs.state_dict(), norm_eps=1e-3)  # taken over unchanged
    assert largest_difference(ours, theirs) > 1e-3


def test_a_body_takes_its_part_of_a_published_classifier(randomise):
    theirs = randomise(timm.create_model("mobilenetv4_conv_small", num_classes=10))
    net = backbone.create("mobilenet_v4_conv_small", taps=("3.start", "6.depthwise")).eval()
    assert backbone.load_weights(net, theirs.state_dict()) == "timm"
    assert torch.equal(net.blocks["3"].start.conv.weight, theirs.blocks[2][0].dw_start.conv.weight)


def test_parts_that_a_network_has_not_are_left_over_and_refused():
    state = backbone.create("mobilenet_v3_small").state_dict()
    with pytest.raises(InputError, match=r"1 unexpected \(blocks.3.start.conv.weight\)"):
        backbone.load_weights(
            backbone.create("mobilenet_v3_small"), state | {"blocks.3.start.conv.weight": torch.zeros(24, 1, 3, 3)}
        )


def test_file_names_tell_tensorflows_weights(tmp_path, randomise):
    theirs = randomise(published("tf_mobilenetv3_small_075", "same"))
    torch.save(theirs.state_dict(), tmp_path / "tf_mobilenetv3_small_075-0123.pth")
    found = backbone.from_weights(tmp_path / "tf_mobilenetv3_small_075-0123.pth")
    assert found.mean == (0.5, 0.5, 0.5) and found.classifier.backbone.padding == "same"
    assert largest_difference(found.classifier, theirs) < 1e-4


def test_a_hub_folder_tells_padding_and_normalisation(tmp_path, randomise):
    theirs = randomise(published("tf_mobilenetv3_small_075", "same"))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "tf_mobilenetv3_small_075",
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = backbone.from_weights(tmp_path / "model.safetensors")
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert largest_difference(found.classifier, theirs) < 1e-4
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        backbone.from_weights(tmp_path / "model.safetensors")


def test_own_classifiers_are_found_too():
    ours = backbone.classifier("mobilenet_v3_small", width=0.5, tail="detection", num_classes=4, in_channels=1)
    found = backbone.from_weights(ours.state_dict())
    assert (found.name, found.width, found.layout) == ("mobilenet_v3_small", 0.5, "taproot")
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in found.classifier.state_dict().items())


def test_layouts_that_cannot_be_reproduced_are_refused_with_the_reason(tmp_path):
    weight = torch.zeros(1)
    with pytest.raises(InputError, match="not a MobileNetV3"):
        backbone.from_weights({"features.3.bottleneck_0_0.weight": weight})
    (tmp_path / "w.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="git lfs pull"):
        backbone.from_weights(tmp_path / "w.pth")
    hybrid = timm.create_model("mobilenetv4_hybrid_medium", num_classes=2)
    with pytest.raises(InputError, match="a hybrid MobileNetV4"):
        backbone.from_weights(hybrid.state_dict())
    with pytest.raises(InputError, match="no known architecture"):
        backbone.from_weights(timm.create_model("efficientnet_b0", num_classes=2).state_dict())
    torch.save(timm.create_model("mobilenetv4_conv_blur_medium", num_classes=2).state_dict(), tmp_path / "w.pth")
    (tmp_path / "w.pth").rename(tmp_path / "mobilenetv4_conv_blur_medium-0123.pth")
    with pytest.raises(InputError, match="blurs before its strides"):  # its tensors are those of conv_medium
        backbone.from_weights(tmp_path / "mobilenetv4_conv_blur_medium-0123.pth")
    with pytest.raises(InputError, match="symmetric padding"):
        backbone.from_weights(torchvision.models.mnasnet0_5().state_dict(), padding="same")
    minimal = published("tf_mobilenetv3_small_minimal_100", "same").state_dict()
    with pytest.raises(InputError, match="need padding='same'"):
        backbone.load_weights(backbone.create("mobilenet_v3_small_minimalistic"), minimal)
    net = backbone.create("mobilenet_v2", padding="same")
    with pytest.raises(InputError, match="need padding='symmetric'"):
        backbone.load_weights(net, torchvision.models.mobilenet_v2().state_dict())


@pytest.mark.parametrize("name", backbone.names())
def test_every_tap_of_every_family_is_what_it_declares(name):
    every_tap = tuple(backbone.create(name, taps=("stem",)).all_features)
    for output_stride in (8, 16, 32):
        for padding in ("symmetric", "same"):
            net = backbone.create(name, width=0.35, output_stride=output_stride, taps=every_tap, padding=padding).eval()
            with torch.no_grad():
                values = net(torch.randn(1, 3, 49, 66))
            assert tuple(values) == every_tap
            for tap, feature in net.features.items():
                height, width = -(-49 // feature.stride), -(-66 // feature.stride)
                assert values[tap].shape == (1, feature.channels, height, width), tap
            assert max(feature.stride for feature in net.features.values()) == output_stride


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v4_conv_small", "mobilenet_v4_conv_medium", "fbnet_c"])
def test_a_smaller_output_stride_computes_the_same_values_more_densely(name, randomise):
    strided = randomise(backbone.create(name, width=0.35))
    images = torch.randn(1, 3, 128, 192)
    for output_stride in (8, 16):
        dense = backbone.create(name, width=0.35, output_stride=output_stride).eval()
        dense.load_state_dict(strided.state_dict())
        step = 32 // output_stride
        with torch.no_grad():
            want, got = strided(images)["last"], dense(images)["last"][:, :, ::step, ::step]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_compiles_and_exports(name):
    every_tap = tuple(backbone.create(name, taps=("stem",)).all_features)
    net = backbone.create(name, width=0.35, taps=every_tap, padding="same", drop_path=0.2)
    images = torch.randn(2, 3, 65, 97)
    sum(value.sum() for value in net(images).values()).backward()
    twin = copy.deepcopy(net).eval()
    net.eval()
    with torch.no_grad():
        want = net(images)
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")(images)
        exported = torch.export.export(net, (images,), strict=True).module()(images)
        copied = twin(images)
    for tap, value in want.items():
        assert torch.equal(value, copied[tap])
        torch.testing.assert_close(compiled[tap], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(exported[tap], value, rtol=1e-4, atol=1e-5)


def test_same_padding_exports_with_free_input_sizes():
    net = backbone.create("mobilenet_v2", width=0.35, taps=("5.out",), padding="same").eval()
    height, width = torch.export.Dim("height", min=32, max=512), torch.export.Dim("width", min=32, max=512)
    example = torch.randn(1, 3, 64, 96)
    exported = torch.export.export(net, (example,), dynamic_shapes=({2: height, 3: width},), strict=True).module()
    with torch.no_grad():
        for size_hw in ((64, 96), (65, 97), (33, 130)):
            images = torch.randn(1, 3, *size_hw)
            torch.testing.assert_close(exported(images)["5.out"], net(images)["5.out"], rtol=1e-4, atol=1e-5)


def test_same_padding_puts_the_odd_pixel_right_and_below():
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    even = conv(torch.ones(1, 1, 4, 4))[0, 0]  # windows start at 0 and 2: the second hangs over by one
    assert even.tolist() == [[9, 6], [6, 4]]
    odd = conv(torch.ones(1, 1, 5, 5))[0, 0]  # windows start at -1, 1 and 3
    assert odd.tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


def test_stochastic_depth_leaves_out_branches_in_training_only():
    torch.manual_seed(0)
    net = backbone.create("mobilenet_v3_small", drop_path=0.9)
    images = torch.randn(2, 3, 64, 64)
    assert not torch.equal(net(images)["last"], net(images)["last"])
    net.eval()
    assert torch.equal(net(images)["last"], net(images)["last"])
