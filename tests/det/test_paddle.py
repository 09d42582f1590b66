"""PaddleDetection's PicoDet in our network.

Its own model, with random weights, was the judge of names and numbers: all 605 tensors fit, outputs differed by 8e-6.
"""

import re

import pytest
import torch
from torch import nn

import det
from backbone.blocks import SqueezeExcite
from backbone.errors import InputError
from tests.builders.port_networks import PaddleGate
from tools.converters.weights import recognise

RULES = (
    # ours, Paddle's
    (r"backbone\.stem", "backbone.conv1"),
    (r"backbone\.blocks\.(\d+)", lambda found: f"backbone.conv{int(found[1]) + 1}"),
    (r"\.expand\.(conv|norm)", r".expand_conv.\1"),
    (r"\.depthwise\.(conv|norm)", r".bottleneck_conv.\1"),
    (r"\.project\.(conv|norm)", r".linear_conv.\1"),
    (r"squeeze_excite\.reduce", "mid_se.conv1"),
    (r"squeeze_excite\.expand", "mid_se.conv2"),
)
NECK = {
    "laterals": "conv_t.convs",
    "top_down": "top_down_blocks",
    "bottom_up": "bottom_up_blocks",
    "downsample": "downsamples",
    "top_from_lateral": "first_top_conv",
    "top_from_merged": "second_top_conv",
    "separable": "blocks.0.conv2",
    "reduce": "blocks.0.conv1",
    "main": "main_conv",
    "short": "short_conv",
}
VALUES = {"running_mean": "_mean", "running_var": "_variance"}


def paddles_name(ours: str) -> str:
    """The name in PaddleDetection of a tensor of our PicoDet, the predictors apart."""
    parts = ours.split(".")
    parts[-1] = VALUES.get(parts[-1], parts[-1])
    if parts[0] == "backbone":
        name = ".".join(parts)
        for pattern, theirs in RULES:
            name = re.sub(pattern, theirs, name)
        return name.replace(".norm.", ".bn.")
    if parts[1] == "towers":
        _, _, level, depth, part, *rest = parts
        return ".".join(["head.conv_feat", f"cls_conv_{'dw' if part == 'depthwise' else 'pw'}{level}", depth, *rest])
    separable = parts[1] in ("downsample", "top_from_lateral", "top_from_merged") or "separable" in parts
    if separable:
        number = 1 if "depthwise" in parts else 2
        layer = {"conv": "dwconv" if number == 1 else "pwconv", "norm": f"bn{number}"}
        parts = [layer.get(part, part) for part in parts if part not in ("depthwise", "project")]
    else:
        parts = [{"norm": "bn", "project": "final_conv"}.get(part, part) for part in parts]
    return ".".join(["neck", *(NECK.get(part, part) for part in parts[1:])])


def paddles(model: det.Detector) -> dict[str, torch.Tensor]:
    """A model's tensors as PaddleDetection names and lays them out."""
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    found = {paddles_name(key): value for key, value in state.items() if "predictors" not in key}
    for level in range(4):
        for value in ("weight", "bias"):
            both = [state[f"head.{kind}_predictors.{level}.{value}"] for kind in ("class", "distance")]
            found[f"head.head_cls{level}.{value}"] = torch.cat(both)
    return found


@pytest.fixture
def original(randomise):
    """A network that computes as Paddle does, with random weights."""
    torch.manual_seed(0)
    model = det.create("pico128", backbone="mobilenet_v3_large_randl", num_classes=80, image_size=416)
    model = randomise(model)
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            module.gate = PaddleGate()
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    return model


@torch.no_grad()
def test_picodet_gives_what_it_gave(original):
    state = paddles(original)
    assert (
        len(state) == 605
        and {
            "backbone.conv2.expand_conv.bn._variance",
            "backbone.conv16.mid_se.conv2.bias",
            "neck.conv_t.convs.2.bn._mean",
            "neck.top_down_blocks.1.blocks.0.conv2.bn2.weight",
            "neck.first_top_conv.dwconv.weight",
            "head.conv_feat.cls_conv_pw3.3.norm._variance",
            "head.head_cls3.bias",
        }
        <= state.keys()
    )
    found = recognise(state)
    assert found.layout == "paddle" and found.description["score"] == "sigmoid"
    assert found.description["mean"] == (0.485, 0.456, 0.406)
    names = dict(zip(found.description["category_ids"], found.description["classes"], strict=True))
    assert len(names) == 80 and (names[1], names[13], names[90]) == ("person", "stop sign", "toothbrush")
    images = torch.randn(1, 3, 96, 128)
    for mine, theirs in zip(found.model.eval()(images), original(images), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_what_does_not_fit_is_said(original):
    state = paddles(original)
    with pytest.raises(InputError, match="need head='pico128'"):
        det.load_weights(det.create("ssdlite", backbone="mobilenet_v3_large_randl"), state)
    with pytest.raises(InputError, match=r"head\.towers\.0\.0\.depthwise\.conv\.weight"):
        det.load_weights(original, {k: v for k, v in state.items() if k != "head.conv_feat.cls_conv_dw0.0.conv.weight"})
    other = {key: value for key, value in state.items() if not key.startswith("backbone.conv16")}
    with pytest.raises(InputError, match="but not on MobileNetV3-Large"):
        det.from_weights(other)
