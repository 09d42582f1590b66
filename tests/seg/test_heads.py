"""Heads: the paper's rows, the library's decoders with the library's numbers, any image size, taps by rule."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import backbone
import seg
from backbone import InputError
from seg.encoders import Encoder
from seg.heads.decoders import DECODERS
from seg.heads.taps import high_tap, low_tap, pyramid
from seg.options import HEADS

SMALL = {"backbone": "mobilenet_v3_small", "width": 0.35, "num_classes": 5}
LIBRARY = {
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "fpn": smp.FPN,
    "linknet": smp.Linknet,
    "manet": smp.MAnet,
    "pan": smp.PAN,
    "pspnet": smp.PSPNet,
    "segformer": smp.Segformer,
    "unet": smp.Unet,
    "upernet": smp.UPerNet,
}


@pytest.mark.parametrize(
    ("arguments", "millions", "billions"),
    [
        # Table 7, parameters and MACs. The four rows with a halved V2 have 0.01M more parameters than is printed (1.15,
        # 1.02, 0.98, 0.16), with the printed MACs.
        ({"head": "raspp", "backbone": "mobilenet_v2", "tail": "full"}, 2.11, 21.29),
        ({"head": "raspp", "backbone": "mobilenet_v2"}, 1.16, 13.68),
        ({"backbone": "mobilenet_v2", "head_channels": 256}, 1.03, 12.83),
        ({"backbone": "mobilenet_v2"}, 0.99, 12.57),
        ({"head": "raspp", "tail": "full"}, 3.60, 18.43),
        ({"head": "raspp"}, 1.76, 11.24),
        ({"head_channels": 256}, 1.63, 10.33),
        ({}, 1.51, 9.74),
        ({"backbone": "mobilenet_v2", "width": 0.5}, 0.28, 4.00),
        ({"backbone": "mobilenet_v2", "width": 0.35}, 0.17, 2.54),
        ({"backbone": "mobilenet_v3_small"}, 0.47, 2.90),
    ],
)
def test_sizes_are_those_of_the_papers_table_7(arguments, millions, billions):
    with torch.device("meta"):
        model = seg.create(**arguments).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 1025, 2049))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    macs = counter.get_total_flops() / 2
    if model.stride == 8:  # the paper resizes F channels to stride 8 and classifies there; ours classifies first
        macs += arguments.get("head_channels", 128) * 19 * (129 * 257 - 65 * 129)
    assert macs / 1e9 == pytest.approx(billions, rel=0.05)


def test_fuse_sees_far_and_is_no_heavier_than_lraspp():
    """Parameters and MACs at 512x1024; a change 700 pixels away reaches the logits without the global gate."""
    sizes = {}
    for head in ("lraspp", "fuse"):
        with torch.device("meta"):
            model = seg.create(head).eval()
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 3, 512, 1024))
        sizes[head] = sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9
    assert sizes["fuse"] == pytest.approx((1.63, 2.55), abs=0.01)
    assert sizes["fuse"][1] < 1.15 * sizes["lraspp"][1]

    torch.manual_seed(0)
    context = seg.create("fuse", backbone="mobilenet_v3_small", width=0.35).head.context.eval()
    cells = torch.zeros(1, context.project.conv.in_channels, 1, 64)
    with torch.no_grad():
        before = context.blocks(context.project(cells))
        cells[..., 0] = 1.0
        changed = (context.blocks(context.project(cells)) != before).any(1)[0, 0].nonzero().max()
    assert changed == 27  # cells of 32 pixels, to either side


@pytest.mark.parametrize(
    ("name", "paper", "torchvision"),
    [
        # The official code's decoder end points at stride 8 (its layer 7 is block 6), and torchvision's features.
        ("mobilenet_v2", "6.depthwise", "4.out"),
        ("mobilenet_v3_large", "6.depthwise", "4.out"),
        ("mobilenet_v3_small", "3.depthwise", "2.out"),
    ],
)
def test_low_taps_are_the_published_ones(name, paper, torchvision):
    table = backbone.architecture(name)
    assert (low_tap(table, "paper"), low_tap(table, "torchvision")) == (paper, torchvision)


@pytest.mark.parametrize("name", backbone.names())
def test_every_network_carries_the_papers_heads_and_gives_five_strides(name):
    table = backbone.architecture(name)
    for output_stride in (8, 16, 32):
        features = backbone.create(name, output_stride=output_stride, taps=pyramid(table)).features
        assert [f.stride for f in features.values()] == [min(2**level, output_stride) for level in range(1, 6)]
        assert list(features) == sorted(features, key=list(backbone.create(name).all_features).index)
    with torch.no_grad():
        model = seg.create(backbone=name, num_classes=3, width=0.5).eval()
        assert model(torch.randn(1, 3, 33, 64)).shape == (1, 3, 5, 8)


def test_channels_are_those_of_timms_networks_in_the_library():
    for ours, theirs in (("mobilenet_v3_large", "tu-mobilenetv3_large_100"), ("mobilenet_v2", "tu-mobilenetv2_100")):
        expected = smp.encoders.get_encoder(theirs, weights=None).out_channels
        assert smp.encoders.get_encoder(f"taproot-{ours}").out_channels == expected


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("depth", [3, 5])
def test_an_encoder_gives_what_it_declares(depth, output_stride):
    encoder = smp.encoders.get_encoder(
        "taproot-mobilenet_v3_small", in_channels=4, depth=depth, output_stride=output_stride
    ).eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 4, 64, 96))
    assert [f.shape[1] for f in features] == encoder.out_channels and len(features) == depth + 1
    strides = [64 // f.shape[2] for f in features]
    assert strides == [min(2**level, output_stride) for level in range(depth + 1)]
    assert encoder.output_stride == min(output_stride, 2**depth)


def test_dilating_an_encoder_keeps_its_weights():
    encoder = Encoder("mobilenet_v3_small", width=0.35)
    before = copy.deepcopy(encoder.network.state_dict())
    encoder.make_dilated(8)
    assert all(torch.equal(value, before[name]) for name, value in encoder.network.state_dict().items())
    assert encoder.eval()(torch.randn(1, 3, 64, 64))[-1].shape[-1] == 8
    with pytest.raises(InputError, match="depth 6"):
        Encoder("mobilenet_v3_small", depth=6)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_numbers_are_the_librarys(name, randomise):
    ours = randomise(seg.create(name, backbone="mobilenet_v3_small", num_classes=5))
    stride = DECODERS[name].output_strides[0]
    own = {"deeplabv3": {"encoder_output_stride": stride}, "pspnet": {"encoder_depth": 5, "output_stride": stride}}
    theirs = LIBRARY[name](
        "taproot-mobilenet_v3_small",
        encoder_weights=None,
        classes=5,
        **own.get(name, {}) | {"upsampling": 1} if name not in ("unet", "manet", "linknet") else {},
    ).eval()
    names = {"backbone.": "encoder.network.", "head.decoder.": "decoder.", "head.classify.": "segmentation_head.0."}
    state = {
        next(new + key[len(old) :] for old, new in names.items() if key.startswith(old)): value
        for key, value in ours.state_dict().items()
    }
    theirs.load_state_dict(state)
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_any_size_copies_and_exports(head):
    model = seg.create(head, **SMALL, head_channels=32, dropout=0.2, auxiliary=True)
    logits, extra = model(torch.randn(2, 3, 64, 64), auxiliary=True)
    (logits.sum() + extra.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    twin = copy.deepcopy(model).eval()
    model.eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 31, 47)).shape == (1, 5, -(-31 // model.stride), -(-47 // model.stride))
        images = torch.randn(1, 3, 64, 96)
        logits = model(images)
        assert torch.equal(twin(images), logits)
        features = tuple(model.backbone(F.pad(images, (0, 32, 0, 64))).values())[: len(model.taps)]
        expected = model.head(*features)
        exported = torch.export.export(model.head, features, strict=True).module()
        torch.testing.assert_close(exported(*features), expected, rtol=1e-4, atol=1e-5)


def test_a_head_that_pads_exports_whole():  # strictly: the same tracing as torch.compile(fullgraph=True)
    model = seg.create("fpn", **SMALL, head_channels=32).eval()
    images = torch.randn(1, 3, 31, 47)
    with torch.no_grad():
        logits = model(images)
        exported = torch.export.export(model, (images,), strict=True).module()
        torch.testing.assert_close(exported(images), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["unet", "fpn", "raspp", "fuse"])
def test_label_map_equals_the_finish_of_any_head(head):
    torch.manual_seed(0)
    model = seg.create(head, **SMALL).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 50, 70))
        assert torch.equal(seg.label_map(logits, (50, 70)).long(), seg.upsample(logits, (50, 70)).argmax(1))


def test_the_auxiliary_head_changes_nothing_else():
    torch.manual_seed(0)
    plain = seg.create(**SMALL).eval()
    torch.manual_seed(0)
    model = seg.create(**SMALL, auxiliary=True).eval()
    extra = {name for name in model.state_dict() if name.startswith("auxiliary.")}
    assert model.state_dict().keys() - extra == plain.state_dict().keys()
    model.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        logits, second = model(images, auxiliary=True)
        assert torch.equal(model(images), logits) and torch.equal(logits, plain(images))
    assert second.shape == (1, 5, 4, 6)


def test_global_pooling_sees_the_whole_map_and_windows_do_not():
    high = torch.zeros(1, 288, 64, 128)
    high[..., 100:] = 100.0  # bright on the right: what pooling sees differs from place to place, or not
    shapes = {}
    for pooling in ("windows", "global"):
        head = seg.create(backbone="mobilenet_v3_small", pooling=pooling).head.eval()
        head.gate.register_forward_hook(lambda _, inputs, output, key=pooling: shapes.update({key: inputs[0].shape}))
        with torch.no_grad():
            head(torch.zeros(1, 88, 128, 256), high)
    assert shapes == {"windows": (1, 288, 1, 4), "global": (1, 288, 1, 1)}


def test_classifier_weights_of_a_network_fit_heads_that_leave_its_last_layers_out(tmp_path):
    source = backbone.classifier("mobilenet_v2")
    model = seg.create("unet", backbone="mobilenet_v2", num_classes=3)
    assert high_tap(backbone.architecture("mobilenet_v2")) == "17.out"
    backbone.load_weights(model.backbone, source.state_dict())
    assert torch.equal(model.backbone.stem.conv.weight, source.backbone.stem.conv.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "resunet"}, "head 'resunet' unknown; valid: lraspp, raspp, fuse, deeplabv3"),
        ({"pooling": "max"}, "pooling 'max' unknown; valid: windows, global"),
        ({"head": "fpn", "output_stride": 16}, "output_stride 16 does not fit head 'fpn'; valid: 32"),
        ({"head": "fpn", "head_channels": 40}, "head_channels 40 must be a multiple of 32"),
        ({"dropout": 1.0}, "dropout 1.0 must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        seg.create(**arguments)
