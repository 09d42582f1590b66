"""PaddleSeg's LR-ASPP in our network.

Its own model, with random weights, was the judge of names and numbers: all 285 tensors fit, and logits differed by
4e-5 of the largest at 512x1024, 401x657, 256x384 and 193x257, with both poolings and output strides.
"""

import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import seg
from backbone.architectures.plan import Feature
from backbone.blocks import SqueezeExcite
from backbone.errors import InputError
from backbone.weights import names
from backbone.weights.publishers import paddle_files
from seg.heads.lraspp import MergingLRASPPHead
from tests.builders import loopback
from tests.builders.port_networks import PaddleGate
from tools.converters.weights import recognise

RULES = (
    # ours, Paddle's
    (r"^backbone\.stem\.", "backbone.conv."),
    (r"^backbone\.blocks\.(\d+)", lambda found: f"backbone.blocks.{int(found[1]) - 1}"),
    (r"(?<=\d)\.(expand|project)\.(conv|norm)\.", lambda found: f".{PARTS[found[1]]}.{found[2]}."),
    (r"\.depthwise\.(conv|norm)\.", r".bottleneck_conv.\1."),
    (r"squeeze_excite\.reduce", "mid_se.conv1"),
    (r"squeeze_excite\.expand", "mid_se.conv2"),
    (r"^head\.(project|merges\.\d)\.conv\.", lambda found: f"lraspp_head.{HEAD[found[1]]}._conv."),
    (r"^head\.(project|merges\.\d)\.norm\.", lambda found: f"lraspp_head.{HEAD[found[1]]}._batch_norm."),
    (r"^head\.laterals\.", "lraspp_head.convs."),
    (r"^head\.gate\.", "lraspp_head.conv_w.1."),
    (r"^head\.mix\.", "lraspp_head.conv_t."),
    (r"^head\.classify\.", "lraspp_head.conv_out."),
    (r"\.norm\.", ".bn."),
    (r"running_mean$", "_mean"),
    (r"running_var$", "_variance"),
)
PARTS = {"expand": "expand_conv", "project": "linear_conv"}
HEAD = {"project": "conv_v", "merges.0": "conv_ups.0", "merges.1": "conv_ups.1"}


def paddles(model: seg.Segmenter) -> dict[str, torch.Tensor]:
    """A model's tensors as PaddleSeg names them; its convolutions in the head have biases, taken off the means here."""
    found = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        for pattern, theirs in RULES:
            key = re.sub(pattern, theirs, key)
        found[key] = value
    for layer in HEAD.values():
        bias = torch.randn(len(found[f"lraspp_head.{layer}._conv.weight"]))
        found[f"lraspp_head.{layer}._conv.bias"] = bias
        found[f"lraspp_head.{layer}._batch_norm._mean"] = found[f"lraspp_head.{layer}._batch_norm._mean"] + bias
    return found


@pytest.fixture
def original(randomise):
    """A network that computes as Paddle does, with random weights."""
    torch.manual_seed(0)
    model = seg.create(backbone="mobilenet_v3_large_randl", variant="paddle", output_stride=8)
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            module.gate = PaddleGate()
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    return randomise(model)


@torch.no_grad()
def test_lraspp_gives_what_it_gave(original):
    state = paddles(original)
    assert (
        len(state) == 285
        and {
            "backbone.conv.bn._variance",
            "backbone.blocks.14.mid_se.conv2.bias",
            "backbone.blocks.0.expand_conv.conv.weight",
            "lraspp_head.convs.1.weight",
            "lraspp_head.conv_ups.0._batch_norm._mean",
            "lraspp_head.conv_w.1.weight",
            "lraspp_head.conv_out.weight",
        }
        <= state.keys()
    )
    found = recognise(state)
    said = found.description
    assert found.layout == "paddle" and said["mean"] == said["std"] == (0.5, 0.5, 0.5)
    assert (said["classes"][0], said["classes"][-1], said["colors"][0]) == ("road", "bicycle", (128, 64, 128))
    assert said["model"]["output_stride"] == 8 and said["model"]["pooling"] == "windows"
    images = torch.randn(1, 3, 97, 130)
    logits = found.model.eval()(images)
    expected = original(images)
    assert logits.shape == (1, 19, 25, 33) and found.model.stride == 4
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["windows", "global"])
def test_the_head_is_paddlesegs(pooling, randomise):
    torch.manual_seed(0)
    features = Feature(3, 4), Feature(5, 8), Feature(7, 8)
    head = MergingLRASPPHead(*features, num_classes=4, head_channels=6, pooling=pooling, dropout=0.5)
    randomise(head)
    fine, low, high = torch.randn(1, 3, 140, 180), torch.randn(1, 5, 70, 90), torch.randn(1, 7, 70, 90)
    pooled = F.avg_pool2d(high, 49, (16, 20)) if pooling == "windows" else F.adaptive_avg_pool2d(high, 1)
    assert pooled.shape[-2:] == ((2, 3) if pooling == "windows" else (1, 1))
    gate = F.interpolate(head.gate(pooled).sigmoid(), (70, 90), mode="bilinear", align_corners=False)
    y = head.mix(head.project(high) * gate)
    y = head.merges[0](torch.cat([y, head.laterals[0](low)], 1))
    y = F.interpolate(y, (140, 180), mode="bilinear", align_corners=False)
    y = head.classify(head.merges[1](torch.cat([y, head.laterals[1](fine)], 1)))
    assert (head.laterals[0].out_channels, head.laterals[1].out_channels) == (64, 32)
    torch.testing.assert_close(head(fine, low, high), y, rtol=1e-5, atol=1e-5)
    for graph in (
        torch.compile(head, fullgraph=True, backend="aot_eager"),
        torch.export.export(head, (fine, low, high), strict=True).module(),
    ):
        torch.testing.assert_close(graph(fine, low, high), y, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_said(original):
    state = paddles(original)
    with pytest.raises(InputError, match="needs variant='paddle'"):
        seg.load_weights(seg.create(backbone="mobilenet_v3_large_randl"), state)
    with pytest.raises(InputError, match="need padding='symmetric'"):
        seg.load_weights(seg.create(backbone="mobilenet_v3_large_randl", variant="paddle", padding="same"), state)
    with pytest.raises(InputError, match=r"1 missing \(head\.laterals\.1\.weight\)"):
        seg.load_weights(original, {k: v for k, v in state.items() if k != "lraspp_head.convs.1.weight"})
    with pytest.raises(InputError, match="unexpected"):
        seg.load_weights(original, state | {"lraspp_head.convs.2.weight": torch.zeros(1)})
    other = {key: value for key, value in state.items() if not key.startswith("backbone.blocks.14")}
    with pytest.raises(InputError, match="but not on MobileNetV3"):
        seg.from_weights(other)
    with pytest.raises(InputError, match="align_corners does not fit variant 'paddle'"):
        seg.create(variant="paddle", align_corners=True)


def test_its_file_is_kept_under_the_name_of_its_folder(tmp_path, monkeypatch, original):
    name = "paddle/lraspp_large_cityscapes"
    body = pickle.dumps({key: value.numpy() for key, value in paddles(original).items()}, protocol=4)
    loopback.only_loopback(monkeypatch)
    monkeypatch.setenv("TAPROOT_CACHE", str(tmp_path))
    with loopback.serve() as server:
        monkeypatch.setitem(paddle_files.ADDRESSES, name, f"{server.address}/lraspp_best/model.pdparams")
        server.routes["/lraspp_best/model.pdparams"] = loopback.whole(body)
        path = names.resolve(name)
    assert path == tmp_path / "paddle" / "lraspp_best.pdparams"
    assert seg.from_weights(name).layout == "paddle"  # from the cache: nothing serves it any longer
    assert "non-commercial" in names.terms(name)
