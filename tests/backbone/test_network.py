"""The backbone: torchvision's numbers, the paper's sizes, taps that survive copying, compiling and exporting."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import backbone
import backbone.blocks
from backbone import Feature, InputError

NAMES = ["mobilenet_v3_large", "mobilenet_v3_small"]
TAPS = {
    "mobilenet_v3_large": ("stem", "1.expand", "6.depthwise", "13.expand", "13.out", "last"),
    "mobilenet_v3_small": ("stem", "1.expand", "3.depthwise", "9.expand", "9.out", "last"),
}


@pytest.mark.parametrize(("name", "parameters"), [(NAMES[0], 5_483_032), (NAMES[1], 2_542_856)])
def test_classifier_equals_torchvisions(name, parameters, randomise):
    theirs = randomise(getattr(torchvision.models, name)(weights=None))
    ours = backbone.classifier(name)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert backbone.load_weights(ours, theirs.state_dict()) == "torchvision"
    for size in ((224, 224), (193, 257)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(images), theirs(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("tail", ["full", "detection", "segmentation"])
@pytest.mark.parametrize("name", NAMES)
def test_every_tap_is_what_it_declares(name, tail, output_stride):
    every_tap = tuple(backbone.create(name).all_features)
    net = backbone.create(name, width=0.5, tail=tail, output_stride=output_stride, in_channels=4, taps=every_tap).eval()
    with torch.no_grad():
        values = net(torch.randn(1, 4, 65, 96))
    assert tuple(values) == every_tap
    for tap, feature in net.features.items():
        height, width = -(-65 // feature.stride), -(-96 // feature.stride)
        assert values[tap].shape == (1, feature.channels, height, width), tap
    assert max(feature.stride for feature in net.features.values()) == output_stride


def test_features_are_the_papers():
    net = backbone.create("mobilenet_v3_large", tail="segmentation", output_stride=16, taps=("6.depthwise", "last"))
    assert net.features == {"6.depthwise": Feature(120, 8), "last": Feature(480, 16)}
    c4 = backbone.create("mobilenet_v3_large", tail="detection", taps=("13.expand",)).features["13.expand"]
    assert c4 == Feature(672, 16)
    assert backbone.create("mobilenet_v3_small", taps=("9.expand",)).features["9.expand"] == Feature(288, 16)


def test_taps_are_the_values_of_torchvisions_blocks(randomise):
    theirs = randomise(torchvision.models.mobilenet_v3_large(weights=None))
    ours = backbone.create("mobilenet_v3_large", taps=("13.expand", "6.depthwise", "4.out", "last")).eval()
    backbone.load_weights(ours, theirs.state_dict())
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        values = ours(images)
        blocks = theirs.features
        expand = blocks[13].block[0](blocks[:13](images))
        depthwise = blocks[6].block[1](blocks[6].block[0](blocks[:6](images)))
        expected = {
            "13.expand": expand,
            "6.depthwise": depthwise,
            "4.out": blocks[:5](images),
            "last": blocks(images),
        }
    assert list(values) == list(expected)
    for tap in expected:
        torch.testing.assert_close(values[tap], expected[tap], rtol=1e-5, atol=1e-5)


def test_nothing_past_the_deepest_tap_is_built():
    net = backbone.create("mobilenet_v3_large", taps=("4.out", "6.expand"))
    assert list(net.blocks) == ["1", "2", "3", "4", "5", "6"]
    assert net.last is None and net.blocks["6"].depthwise is None
    theirs = torchvision.models.mobilenet_v3_large(weights=None)
    assert backbone.load_weights(net, theirs.state_dict()) == "torchvision"


def test_output_stride_16_computes_the_strided_network_densely(randomise):
    taps = ("12.out", "last")
    strided = randomise(backbone.create("mobilenet_v3_large", taps=taps))
    dense = backbone.create("mobilenet_v3_large", output_stride=16, taps=taps).eval()
    dense.load_state_dict(strided.state_dict())
    for module in (*strided.modules(), *dense.modules()):  # a global mean would see other positions
        if isinstance(module, backbone.blocks.SqueezeExcite):
            module.forward = lambda x: x
    images = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        far_from_edges = slice(6, 10)
        want = strided(images)["last"][:, :, far_from_edges, far_from_edges]
        got = dense(images)["last"][:, :, 12:20:2, 12:20:2]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_after_a_training_forward_works(name):
    net = backbone.create(name, taps=TAPS[name])
    images = torch.randn(2, 3, 64, 64)
    sum(value.sum() for value in net(images).values()).backward()
    twin = copy.deepcopy(net).eval()
    net.eval()
    for tap, value in net(images).items():
        assert torch.equal(value, twin(images)[tap])


@pytest.mark.parametrize("name", NAMES)
def test_compiles_as_one_graph(name):
    net = backbone.create(name, taps=TAPS[name]).eval()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for tap, value in net(images).items():
            torch.testing.assert_close(compiled(images)[tap], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_exports_strictly(name):
    net = backbone.create(name, taps=TAPS[name]).eval()
    images = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(net, (images,), strict=True).module()
    with torch.no_grad():
        for tap, value in net(images).items():
            torch.testing.assert_close(exported(images)[tap], value, rtol=1e-4, atol=1e-5)


def test_networks_do_not_share_their_tables():
    backbone.classifier("mobilenet_v3_large", width=0.5)
    assert sum(p.numel() for p in backbone.classifier("mobilenet_v3_large").parameters()) == 5_483_032


def test_initial_weights_follow_the_seed():
    first, second = (torch.manual_seed(0) and backbone.create("mobilenet_v3_small") for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        ({"name": "mobilenet_v9"}, "mobilenet_v3_large"),
        ({"name": NAMES[0], "tail": "short"}, "segmentation"),
        ({"name": NAMES[0], "output_stride": 4}, "8, 16, 32"),
        ({"name": NAMES[0], "taps": ("16.out",)}, "15.out"),
        ({"name": NAMES[0], "taps": ("6.middle",)}, "6.depthwise"),
        ({"name": NAMES[0], "taps": ()}, "stem"),
        ({"name": NAMES[0], "width": 0}, "above 0"),
    ],
)
def test_unknown_arguments_list_the_valid_ones(arguments, listed):
    with pytest.raises(ValueError, match=listed):
        backbone.create(**arguments)


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    net = backbone.create("mobilenet_v3_large", tail="segmentation")
    before = copy.deepcopy(net.state_dict())
    full = torchvision.models.mobilenet_v3_large(weights=None).state_dict()
    with pytest.raises(InputError, match="of another shape"):
        backbone.load_weights(net, full)
    del full["features.3.block.0.0.weight"]
    with pytest.raises(InputError, match=r"1 missing \(blocks.3.expand.conv.weight\)"):
        backbone.load_weights(backbone.create("mobilenet_v3_large"), full)
    with pytest.raises(InputError, match="unknown layout"):
        backbone.load_weights(net, {"some.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="no such weights file"):
        backbone.load_weights(net, tmp_path / "absent.pt")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "code.pt")  # a pickled object, not tensors
    with pytest.raises(InputError, match="cannot be read as weights"):
        backbone.load_weights(net, tmp_path / "code.pt")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_weights_load_from_files_and_wrappings(tmp_path, randomise):
    theirs = randomise(torchvision.models.mobilenet_v3_small(weights=None))
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "w.pth")
    ours = backbone.classifier("mobilenet_v3_small")
    backbone.load_weights(ours, tmp_path / "w.pth")
    net = backbone.create("mobilenet_v3_small", taps=("5.out",))
    assert backbone.load_weights(net, ours.state_dict()) == "taproot"
    assert torch.equal(net.stem.conv.weight, theirs.features[0][0].weight)
