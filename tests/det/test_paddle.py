"""PaddleDetection's PicoDet and SSDLite in our networks.

Its own models, with random weights, were the judges of names and numbers. PicoDet: all 605 tensors fit, outputs
differed by 8e-6. SSDLite: all 399 tensors (Small: 343) fit under both sets of names, at 320x320 and 193x257 outputs
differed by 2.4e-5 of the largest, and anchors at 320x320 by 1e-7 of the image.
"""

import re

import pytest
import torch
from torch import nn

import det
from backbone.blocks import SqueezeExcite
from backbone.errors import InputError
from det.heads.anchors import ssd_anchors
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


def computing_as_paddle(model: det.Detector) -> det.Detector:
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            module.gate = PaddleGate()
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    return model


@pytest.fixture
def original(randomise):
    """A network that computes as Paddle does, with random weights."""
    torch.manual_seed(0)
    model = det.create("pico128", backbone="mobilenet_v3_large_randl", num_classes=80, image_size=416)
    return computing_as_paddle(randomise(model))


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


def ssdlites_layers(blocks: int) -> dict[str, tuple[str, str]]:
    """Our layers of SSDLite -> their names in PaddleDetection's models and in its older static graph."""
    found = {"backbone.stem": ("backbone.conv1", "conv1")}
    for number in range(1, blocks + 1):
        block, theirs = f"backbone.blocks.{number}", f"conv{number + 1}"
        found[f"{block}.expand"] = f"backbone.{theirs}.expand_conv", f"{theirs}_expand"
        found[f"{block}.depthwise"] = f"backbone.{theirs}.bottleneck_conv", f"{theirs}_depthwise"
        found[f"{block}.project"] = f"backbone.{theirs}.linear_conv", f"{theirs}_linear"
        found[f"{block}.squeeze_excite.reduce"] = f"backbone.{theirs}.mid_se.conv1", f"{theirs}_se_1"
        found[f"{block}.squeeze_excite.expand"] = f"backbone.{theirs}.mid_se.conv2", f"{theirs}_se_2"
    found["backbone.last"] = f"backbone.conv{blocks + 2}", f"conv{blocks + 2}"
    for number in range(4):
        extra, theirs = f"head.extras.{number}", f"conv{blocks + 3 + number}"
        found[f"{extra}.reduce"] = f"backbone.{theirs}.pointwise_conv", f"{theirs}_extra1"
        found[f"{extra}.depthwise"] = f"backbone.{theirs}.depthwise_conv", f"{theirs}_extra2_dw"
        found[f"{extra}.project"] = f"backbone.{theirs}.normal_conv", f"{theirs}_extra2_sep"
    for number in range(6):
        for ours, today, static in (("box", "boxes", "loc"), ("class", "scores", "conf")):
            found[f"head.{ours}_predictors.{number}"] = f"ssd_head.{today}{number}", f"{static}_{number + 1}"
    return found


SSDLITES_VALUES = {
    "conv.weight": (".conv.weight", "_weights"),
    "norm.weight": (".bn.weight", "_bn_scale"),
    "norm.bias": (".bn.bias", "_bn_offset"),
    "norm.running_mean": (".bn._mean", "_bn_mean"),
    "norm.running_var": (".bn._variance", "_bn_variance"),
    "weight": (".weight", "_weights"),
    "bias": (".bias", "_offset"),
    "depthwise.conv.weight": (".dw_conv.weight", "dw_weights"),
    "project.weight": (".pw_conv.weight", "pw_weights"),
}


def ssdlites(model: det.Detector, *, static: bool) -> dict[str, torch.Tensor]:
    """A model's tensors as PaddleDetection names them: today with the background last, in the static graph first."""
    layers = ssdlites_layers(len(model.backbone.blocks))
    found = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        layer = next(name for name in sorted(layers, key=len, reverse=True) if key.startswith(f"{name}."))
        rest = key.removeprefix(f"{layer}.")
        rest = rest if rest in SSDLITES_VALUES else rest.removeprefix("depthwise.")
        if "class_predictors" in key and rest == "project.weight" and not static:
            value = value.unflatten(0, (-1, 81)).roll(-1, dims=1).flatten(0, 1)
        found[layers[layer][static] + SSDLITES_VALUES[rest][static]] = value
    return found


@pytest.fixture
def ssdlite(randomise):
    def make(backbone: str) -> det.Detector:
        torch.manual_seed(0)
        return computing_as_paddle(randomise(det.create(backbone=backbone, num_classes=81, variant="paddle")))

    return make


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True], ids=["today", "static"])
@pytest.mark.parametrize(
    ("backbone", "count", "names"),
    [
        ("mobilenet_v3_large_randl", 399, ("backbone.conv18.depthwise_conv.bn._mean", "conv18_extra2_dw_bn_mean")),
        ("mobilenet_v3_small_paddle", 343, ("backbone.conv2.mid_se.conv2.bias", "conv2_se_2_offset")),
    ],
)
def test_ssdlite_gives_what_it_gave(ssdlite, static, backbone, count, names):
    theirs = ssdlite(backbone)
    state = ssdlites(theirs, static=static)
    assert len(state) == count and names[static] in state
    found = recognise(state)
    said = found.description
    assert (found.layout, said["score"], said["nms_iou"]) == ("paddle", "softmax", 0.45)
    assert (said["mean"][0], said["model"]["backbone"], said["model"]["tail"]) == (0.485, backbone, "detection")
    assert said["model"]["image_size"] == 320 and dict(zip(said["category_ids"], said["classes"], strict=True))[90]
    assert found.model.background and found.model.num_objects == 80
    images = torch.randn(1, 3, 97, 128)
    for mine, original in zip(found.model.eval()(images), theirs(images), strict=True):
        torch.testing.assert_close(mine, original, rtol=1e-4, atol=1e-5 * original.abs().max().item())


def test_ssdlites_anchors_are_those_of_its_config():
    sizes_hw = [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    anchors = ssd_anchors(sizes_hw, (320, 320), "paddle")
    assert anchors.shape == (2434, 4)
    # The numbers are those of Paddle's prior_box: an inner cell of the first map, and cells of the map with step 107.
    inner = [
        [152.0, 152.0, 184.0, 184.0],
        [145.3726, 156.6863, 190.6274, 179.3137],
        [156.6863, 145.3726, 179.3137, 190.6274],
    ]
    torch.testing.assert_close(anchors[840:843], torch.tensor(inner), rtol=0, atol=1e-3)
    assert anchors[2374].tolist() == pytest.approx([70.9, 70.9, 250.1, 250.1], abs=1e-3)
    assert anchors[2398].tolist() == pytest.approx([177.9, 177.9, 320, 320], abs=1e-3)
    assert anchors.min() == 0 and anchors.max() == 320


def test_a_ssdlite_that_does_not_fit_is_said(ssdlite):
    model = ssdlite("mobilenet_v3_small_paddle")
    state = ssdlites(model, static=True)
    with pytest.raises(InputError, match="need variant='paddle', the model has 'torchvision'"):
        det.load_weights(det.create(backbone="mobilenet_v3_small_paddle", num_classes=81, variant="torchvision"), state)
    with pytest.raises(InputError, match="need head='ssdlite'"):
        det.load_weights(det.create("pico96"), state)
    with pytest.raises(InputError, match=r"1 missing \(head\.extras\.3\.depthwise\.conv\.weight\)"):
        det.load_weights(model, {key: value for key, value in state.items() if key != "conv17_extra2_dw_weights"})
    shorter = {key: value for key, value in state.items() if not key.startswith("conv12_")}
    for other in (shorter, state | {"loc_1pw_weights": state["loc_1pw_weights"][:-4]}):
        with pytest.raises(InputError, match="PaddleDetection's SSDLite, but not on MobileNetV3"):
            det.from_weights(other)


def test_picodets_weights_start_a_model_with_them():
    torch.manual_seed(0)
    state = paddles(det.create("pico128", backbone="mobilenet_v3_large_randl", num_classes=80, image_size=416))
    model = det.create("pico128", backbone="mobilenet_v3_large_randl", num_classes=80, image_size=416, one_to_one=True)
    with pytest.raises(InputError, match=r"head\.one_to_one\."):
        det.load_weights(model, state)
    assert det.load_weights(model, state, as_start=True) == "paddle"
    weight = state["head.head_cls2.bias"][:80]
    assert torch.equal(model.head.class_predictors[2].bias, weight)
    assert torch.equal(model.head.one_to_one.class_predictors[2].bias, weight)
