"""Padding and normalisation of an experiment: given keys, else the weights', else the architecture's and the task's."""

import dataclasses

import pytest
import timm
import torch
import torchvision

import backbone
import det
import seg
from backbone import InputError
from tools.io.model_file import load_initial_weights, save_model
from tools.run.config import BackboneConfig, BackboneModel, DetConfig, DetModel, Optim, SegConfig, SegModel, flatten
from tools.run.pretrained import settle, settled_before

LITE = SegConfig(model=SegModel(backbone="efficientnet_lite0"))
RATE = "learning rate 0.001, the default with weights; optim.lr sets another"


def settled(config) -> tuple[str, list[float], list[float], list[str]]:
    found = settle(config)
    numbers = ([round(value, 3) for value in values] for values in (found.config.mean, found.config.std))
    return found.config.model.padding, *numbers, found.notes


def test_published_weights_settle_all_that_is_null():
    config = dataclasses.replace(LITE, weights="efficientnet_lite0")
    padding, mean, std, notes = settled(config)
    assert (padding, mean, std) == ("same", [0.498] * 3, [0.502] * 3)
    expects = "as efficientnet_lite0 expects: model.padding same, mean 0.498 0.498 0.498, std 0.502 0.502 0.502"
    assert notes == [expects, RATE]


@pytest.mark.parametrize("package", [seg, det])
def test_a_backbone_and_its_weights_are_a_whole_experiment(package):
    kind, model = (SegConfig, SegModel) if package is seg else (DetConfig, DetModel)
    config = kind(model=model(backbone="efficientnet_lite0"), weights="efficientnet_lite0")
    config = settle(config).config
    net = package.create(**dataclasses.asdict(config.model) | {"num_classes": 3})
    assert load_initial_weights(net, config.weights, package.load_weights) == (
        "backbone, efficientnet_lite_pytorch layout"
    )


def test_without_weights_architecture_and_task_decide():
    assert settled(LITE) == ("same", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], [])
    assert settled(DetConfig()) == ("symmetric", [0.5] * 3, [0.5] * 3, [])


def test_given_keys_stay_and_contradictions_are_said():
    config = dataclasses.replace(LITE, weights="efficientnet_lite0", mean=[0.5, 0.5, 0.5])
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, padding="symmetric"))
    padding, mean, std, notes = settled(config)
    assert (padding, mean, std) == ("symmetric", [0.5] * 3, [0.502] * 3)
    assert notes == [
        "as efficientnet_lite0 expects: std 0.502 0.502 0.502",
        "model.padding is symmetric, efficientnet_lite0 expects same",
        "mean is 0.5 0.5 0.5, efficientnet_lite0 expects 0.498 0.498 0.498",
        RATE,
    ]


def test_published_segmenters_and_detectors_tell_theirs(tmp_path):
    path = tmp_path / "lraspp.pth"
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), path)
    assert settled(SegConfig(weights=str(path)))[:2] == ("symmetric", [0.485, 0.456, 0.406])


def test_timms_networks_without_tf_in_their_names_are_symmetric(tmp_path):
    for name, padding, mean in (
        ("efficientnet_lite0", "symmetric", [0.485, 0.456, 0.406]),
        ("tf_efficientnet_lite0", "same", [0.5] * 3),
    ):
        path = tmp_path / f"{name}.pth"
        torch.save(timm.create_model(name, num_classes=2).state_dict(), path)
        assert settled(dataclasses.replace(LITE, weights=str(path)))[:2] == (padding, mean)


def test_files_of_ours_tell_theirs(tmp_path):
    arguments = {"backbone": "mobilenet_v3_small", "num_classes": 3, "padding": "same"}
    description = {"task": "segmentation", "model": arguments, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    save_model(tmp_path / "own.safetensors", seg.create("lraspp", **arguments), description)
    config = BackboneConfig(model=BackboneModel(name="mobilenet_v3_small"), weights=str(tmp_path / "own.safetensors"))
    assert settled(config)[:3] == ("same", [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_bare_weights_of_a_width_that_nobody_publishes_are_taken(tmp_path):
    network = backbone.create("mobilenet_v3_small", width=0.6, taps=("last",))
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    config = SegConfig(model=SegModel(backbone="mobilenet_v3_small", width=0.6), weights=str(tmp_path / "bare.pth"))
    assert settled(config)[:2] == ("symmetric", [0.485, 0.456, 0.406])


def test_weights_that_are_not_there_are_one_line():
    with pytest.raises(InputError, match="no such weights file"):
        settle(dataclasses.replace(LITE, weights="none.pth"))


def test_a_learning_rate_that_is_left_out_suits_the_start():
    weights = dataclasses.replace(LITE, weights="efficientnet_lite0")
    assert settle(LITE).config.optim == Optim(lr=0.002, backbone_lr=1.0)
    assert settle(weights).config.optim == Optim(lr=0.001, backbone_lr=1.0)
    given = settle(dataclasses.replace(weights, optim=Optim(lr=0.0, backbone_lr=0.0)))
    assert given.config.optim == Optim(lr=0.0, backbone_lr=0.0) and RATE not in given.notes


def test_a_run_that_goes_on_has_what_was_settled_before():
    before = flatten(settle(dataclasses.replace(LITE, weights="efficientnet_lite0")).config)
    config = settled_before(dataclasses.replace(LITE, weights="efficientnet_lite0"), before)
    assert flatten(config) == before
    del before["optim.backbone_lr"]  # as in a run from before there was this key
    assert settled_before(LITE, before).optim.backbone_lr == 1.0


def test_segmenters_compute_what_weights_of_another_norm_epsilon_did(randomise):
    """timm's EfficientNet-Lite has 1e-5, our segmenters 1e-3; loading scales the norms."""
    theirs = randomise(timm.create_model("efficientnet_lite0", num_classes=2)).state_dict()
    for name, value in theirs.items():
        if name.endswith("running_var"):
            value.mul_(1e-2)  # so small that the epsilon matters
    published = backbone.from_weights(theirs).classifier.backbone.eval()
    model = seg.create(backbone="efficientnet_lite0", num_classes=2).eval()
    model.backbone.load_state_dict(
        {name: value for name, value in published.state_dict().items() if name in model.backbone.state_dict()}
    )
    image = torch.rand(1, 3, 64, 64) - 0.5

    def error() -> float:
        with torch.no_grad():
            ours, expected = model.backbone.stem(image), published.stem(image)
        return ((ours - expected).norm() / expected.norm()).item()

    assert (published.stem.norm.eps, model.backbone.stem.norm.eps) == (1e-5, 1e-3)
    assert error() > 0.01
    backbone.load_weights(model.backbone, theirs)
    assert error() < 1e-5
