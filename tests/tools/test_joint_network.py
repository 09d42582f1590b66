"""The joint network against the single models that it stands for, and its weights file."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import det
import seg
from backbone.errors import InputError
from tools.io.model_file import load_description, load_tensors, save_model
from tools.joint import weights
from tools.joint.network import JointNetwork, create

CLASSES = {"segmentation": ["road", "sky", "car"], "detection": ["car", "person"]}
HEADS = {
    "segmentation": {"head": "lraspp", "num_classes": 3},
    "detection": {"head": "ssdlite", "num_classes": 2, "image_size": [96, 128]},
}


def make(backbone: str = "mobilenet_v3_small", heads: dict | None = None, **body: object) -> JointNetwork:
    """A network in evaluation mode whose norms have statistics that tell one from another."""
    torch.manual_seed(0)
    network = create(backbone, heads=heads or HEADS, **body)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
    return network.eval()


def describe(network: JointNetwork) -> dict:
    tables = {
        "segmentation": {"classes": CLASSES["segmentation"], "colors": [[1, 2, 3]] * 3},
        "detection": {"classes": CLASSES["detection"], "category_ids": [3, 1], "score": "softmax"},
    }
    return weights.describe(network, tables, mean=[0.4] * 3, std=[0.2] * 3)


def tensors(raw: object) -> list[torch.Tensor]:
    return [raw] if isinstance(raw, torch.Tensor) else list(raw)


@pytest.mark.parametrize(
    ("backbone", "segmenter", "detector"),
    [
        ("mobilenet_v3_small", "lraspp", "ssdlite"),
        ("mobilenet_v3_small", "fpn", "pico96"),
        ("efficientnet_lite0", "fuse", "ssdlite_fpn"),
    ],
)
def test_each_head_gives_what_its_single_model_gives_to_the_bit(backbone, segmenter, detector):
    heads = {name: HEADS[name] | {"head": head} for name, head in zip(HEADS, (segmenter, detector), strict=True)}
    network = make(backbone, heads)
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        raw = network(images)
        for name in heads:
            model, description = weights.split(network, describe(network), name)
            package = {"segmentation": seg, "detection": det}[name]
            assert type(model) is type(package.create(**description["model"]))
            for one, other in zip(tensors(model.eval()(images)), tensors(raw[name]), strict=True):
                assert torch.equal(one, other)


def test_fresh_heads_have_the_parameter_names_of_single_models():
    network = make()
    for name, package in (("segmentation", seg), ("detection", det)):
        single = package.create(**weights.head_description(describe(network), name)["model"])
        own = {key.removeprefix(f"{name}.") for key in network.state_dict() if key.startswith(f"{name}.")}
        assert own == {key.removeprefix("head.") for key in single.state_dict() if key.startswith("head.")}


def test_separate_images_of_one_size_share_the_norms_statistics_and_others_do_not():
    network = make().train()
    own, other = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64) + 3
    raw = copy.deepcopy(network)({"segmentation": own, "detection": other})
    both = copy.deepcopy(network)(torch.cat([own, other]))
    assert torch.allclose(raw["segmentation"], network.segmentation(*_features(network, own, other)), atol=1e-5)
    assert raw["detection"].class_logits.shape == both["detection"].class_logits[2:].shape
    apart = copy.deepcopy(network)({"segmentation": own, "detection": torch.randn(2, 3, 96, 64)})
    assert not torch.allclose(apart["segmentation"], raw["segmentation"], atol=1e-3)


def _features(network, own, other):
    features = copy.deepcopy(network.backbone)(torch.cat([own, other]))
    return [features[tap][:2] for tap in network.taps["segmentation"]]


def test_single_models_share_the_networks_modules():
    network = make()
    assert network.single("segmentation").backbone is network.backbone
    assert network.single("detection").head is network.detection
    assert network.single("detection").image_size_hw == (96, 128)


def test_heads_may_have_any_names_and_the_same_task():
    heads = {"road": {"task": "segmentation", "num_classes": 2}, "sky": {"task": "segmentation", "num_classes": 3}}
    network = make(heads=heads)
    assert network.body["output_stride"] == 16
    raw = network(torch.randn(1, 3, 64, 64))
    assert {name: logits.shape[1] for name, logits in raw.items()} == {"road": 2, "sky": 3}


def test_lraspp_and_ssdlite_share_the_detection_tail_and_pico_needs_the_full_one():
    assert make().body["tail"] == "detection"
    assert make(heads=HEADS | {"detection": {"head": "pico96"}}).body["tail"] == "full"
    assert make("mobilenet_v2").body["tail"] == "full"


@pytest.mark.parametrize(
    ("heads", "body", "message"),
    [
        ({"segmentation": {"head": "deeplabv3"}, "detection": {}}, {}, "deeplabv3 takes output stride 16 or 8"),
        ({"segmentation": {}, "detection": {}}, {"output_stride": 16}, "stride 32"),
        ({"segmentation": {"padding": "same"}}, {}, "heads.segmentation.padding"),
        ({"segmentation": {"align_corners": True}}, {}, "heads.segmentation.align_corners"),
        ({"backbone": {"task": "segmentation"}}, {}, "'backbone' cannot be a head's name"),
        ({"boxes": {}}, {}, "task of head 'boxes'"),
        ({"detection": {"taps": ["9.expand", "40.out"]}}, {}, "40.out"),
        ({"segmentation": {"head": "fpn"}, "detection": {"image_size": 300}}, {}, "multiples of 32"),
        ({}, {}, "at least one"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_one_line(heads, body, message):
    with pytest.raises(InputError, match=message) as caught:
        create("mobilenet_v3_small", heads=heads, **body)
    assert "\n" not in str(caught.value)


def test_images_that_a_decoder_would_pad_are_refused():
    network = make(heads=HEADS | {"segmentation": {"head": "fpn"}})
    with pytest.raises(InputError, match="100x96 pixels do not suit the heads; sides must be multiples of 32"):
        network(torch.zeros(1, 3, 96, 100))


def saved(network: JointNetwork, path: Path) -> Path:
    save_model(path, network, describe(network))
    return path


def test_a_file_holds_the_network_and_its_description(tmp_path):
    network = make()
    loaded, description = weights.load(saved(network, tmp_path / "joint.safetensors"))
    assert description == describe(network)
    assert weights.head_description(description, "detection") == {
        "task": "detection",
        "model": {
            "backbone": "mobilenet_v3_small",
            "width": 1.0,
            "tail": "detection",
            "padding": "symmetric",
            **HEADS["detection"],
        },
        "classes": ["car", "person"],
        "category_ids": [3, 1],
        "score": "softmax",
        "mean": [0.4] * 3,
        "std": [0.2] * 3,
    }
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def split_files(network: JointNetwork, folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.safetensors" for name in network.tasks}
    weights.split_file(saved(network, folder / "joint.safetensors"), files)
    return files


def test_two_split_files_make_the_network_again(tmp_path):
    network = make()
    files = split_files(network, tmp_path)
    for name, path in files.items():
        package = {"segmentation": seg, "detection": det}[name]
        assert package.load_weights(package.create(**load_description(path)["model"]), path) == "taproot"
    other = create("mobilenet_v3_small", heads=HEADS)
    said = weights.load_initial(other, CLASSES, ",".join(map(str, files.values())))
    assert said == "backbone, head segmentation, head detection, taproot layout"
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


def test_a_single_models_file_fills_backbone_and_head_and_leaves_the_other_head_fresh(tmp_path):
    network = make()
    files = split_files(network, tmp_path)
    other = create("mobilenet_v3_small", heads=HEADS)
    fresh = copy.deepcopy(other.detection.state_dict())
    assert weights.load_initial(other, CLASSES, str(files["segmentation"])) == (
        "backbone, head segmentation, taproot layout"
    )
    assert torch.equal(other.segmentation.classify_low.weight, network.segmentation.classify_low.weight)
    assert all(torch.equal(value, fresh[key]) for key, value in other.detection.state_dict().items())


def test_layers_that_a_shallower_backbone_lacks_are_new_and_named(tmp_path):
    heads = HEADS | {"detection": {"head": "pico96", "num_classes": 2, "image_size": [96, 128]}}
    network = make(heads=heads)
    files = split_files(network, tmp_path)
    assert not any(key.startswith("backbone.last") for key in load_tensors(files["detection"]))
    said = weights.load_initial(create("mobilenet_v3_small", heads=heads), CLASSES, str(files["detection"]))
    assert said.endswith("new in the backbone: last.conv, last.norm")


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path):
    network = make()
    files = split_files(network, tmp_path)
    for norm in network.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean += 1
    moved = tmp_path / "moved.safetensors"
    weights.split_file(saved(network, tmp_path / "other.safetensors"), {"detection": moved})
    cases = [
        (HEADS, CLASSES, f"{files['segmentation']},{moved}", "backbones differ"),
        (HEADS, CLASSES | {"segmentation": ["a", "b", "c"]}, str(files["segmentation"]), "classes road, sky, car"),
        (HEADS | {"segmentation": {"head": "fuse"}}, CLASSES, str(files["segmentation"]), "does not fit"),
    ]
    for heads, classes, sources, message in cases:
        other = create("mobilenet_v3_small", heads=heads)
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(InputError, match=message) as caught:
            weights.load_initial(other, classes, sources)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    with pytest.raises(InputError, match="not a joint network"):
        weights.load(files["segmentation"])
    with pytest.raises(InputError, match="head 'depth' is unknown; the network has: segmentation, detection"):
        weights.split_file(tmp_path / "joint.safetensors", {"depth": tmp_path / "depth.safetensors"})
