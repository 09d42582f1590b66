"""tools.convert_weights: one file that says what it is, equal to the weights it was made of; bad input is one line."""

import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

import backbone
import det
import seg
from backbone import InputError
from tools import convert_weights, predict
from tools.io import console
from tools.io.model_file import load_description, load_initial_weights, save_model
from tools.predicting import models


def convert(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["convert_weights", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        console.run(convert_weights.main)
    return ended.value.code


@pytest.fixture
def tensorflows(tmp_path, randomise):
    """A file whose name alone tells padding and epsilon, with variances that make them count; and its network."""
    model = randomise(timm.create_model("tf_mobilenetv3_small_075", num_classes=4))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.mul_(0.01)
            with torch.no_grad():
                module.weight.mul_(0.1)
    path = tmp_path / "tf_mobilenetv3_small_075.pth"
    torch.save(model.state_dict(), path)
    return path, model


def test_a_classifiers_file_says_what_its_name_did(tensorflows, tmp_path, monkeypatch, capsys):
    source, theirs = tensorflows
    out = tmp_path / "small.safetensors"
    assert convert(monkeypatch, source, out) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for told in ("layout │ timm", "architecture │ mobilenet_v3_small", "width │ 0.75", "hidden layer │ 1024"):
        assert told in shown
    for told in ("classes │ 4 (0, 1, 2, …)", "padding │ same", "norm epsilon │ 0.001", "input mean, RGB │ 0.5 0.5 0.5"):
        assert told in shown
    found = backbone.from_weights(out)
    assert (found.layout, found.name, found.width, found.mean) == ("taproot", "mobilenet_v3_small", 0.75, (0.5,) * 3)
    images = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        torch.testing.assert_close(found.classifier.eval()(images), theirs(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="have same padding"):
        backbone.from_weights(out, padding="symmetric")


def test_the_description_beats_guessing(tmp_path, monkeypatch, randomise):
    """The tensors are those of mobilenet_v3_small, which only the header tells apart."""
    ours = randomise(backbone.classifier("mobilenet_v3_small_se_before_activation", num_classes=3, norm_eps=1e-5))
    description = {
        "task": "classification",
        "model": {"name": "mobilenet_v3_small_se_before_activation", "num_classes": 3},
    }
    description["model"] |= {"width": 1.0, "norm_eps": 1e-5}
    description |= {"classes": ["a", "b", "c"], "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}
    save_model(tmp_path / "own.safetensors", ours, description)
    found = backbone.from_weights(tmp_path / "own.safetensors")
    assert (found.name, found.classes, found.mean) == (ours.backbone.name, ["a", "b", "c"], (0.1, 0.2, 0.3))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.classifier.eval()(images), ours(images))
    with pytest.raises(InputError, match="se_before_activation"):
        backbone.load_weights(backbone.create("mobilenet_v3_small"), tmp_path / "own.safetensors")


def test_a_training_starts_from_a_converted_classifier(tmp_path, monkeypatch, randomise):
    theirs = randomise(torchvision.models.mobilenet_v3_large(weights=None, num_classes=4))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    assert convert(monkeypatch, tmp_path / "w.pth", tmp_path / "w.safetensors") == 0
    model = seg.create(num_classes=4, tail="full")
    assert "backbone, taproot" in load_initial_weights(model, str(tmp_path / "w.safetensors"), seg.load_weights)
    assert torch.equal(model.backbone.stem.conv.weight, theirs.features[0][0].weight)


def test_padding_and_epsilon_of_weights_that_do_not_tell_are_options(tmp_path, monkeypatch):
    torch.save(timm.create_model("mobilenetv2_035", num_classes=3).state_dict(), tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\n")
    options = ("--padding", "same", "--norm-eps", "2e-3", "--classes", tmp_path / "names.txt")
    assert convert(monkeypatch, tmp_path / "w.pth", tmp_path / "w.safetensors", *options) == 0
    found = backbone.from_weights(tmp_path / "w.safetensors")
    assert found.classifier.backbone.padding == "same" and found.classifier.backbone.stem.norm.eps == 2e-3
    assert found.classes == ["cat", "dog", "bird"]


def test_torchvisions_segmenter_becomes_a_file_for_predicting(tmp_path, monkeypatch, randomise):
    build = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    theirs = randomise(build(weights=None, weights_backbone=None, num_classes=21))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    out = tmp_path / "lraspp.safetensors"
    assert convert(monkeypatch, tmp_path / "w.pth", out) == 0
    model, description = models.load_model(out, task="segmentation")
    images = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        want = theirs(images)["out"]
        got = seg.upsample(model.eval()(images), (97, 129))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())
    assert description["classes"][15] == "person" and description["mean"] == [0.485, 0.456, 0.406]
    assert predict.load(out, device="cpu")(np.zeros((64, 96, 3), np.uint8)).labels.shape == (64, 96)
    with pytest.raises(InputError, match="is a model for segmentation"):
        backbone.from_weights(out)


@pytest.mark.parametrize("num_classes", [5, 91])
def test_torchvisions_detector_becomes_a_file_for_predicting(num_classes, tmp_path, monkeypatch, randomise):
    build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    theirs = randomise(build(weights=None, weights_backbone=None, num_classes=num_classes))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    out = tmp_path / "ssdlite.safetensors"
    assert convert(monkeypatch, tmp_path / "w.pth", out) == 0
    model, description = models.load_model(out, task="detection")
    images = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        want = theirs.head(list(theirs.backbone(images).values()))
        got = model.eval()(images)
    scale = want["cls_logits"].abs().max().item()
    torch.testing.assert_close(got.class_logits, want["cls_logits"], rtol=1e-4, atol=1e-5 * scale)
    names = description["classes"]
    assert len(names) == num_classes - 1 == len(set(names))
    assert names[0] == ("person" if num_classes == 91 else "1")
    assert predict.load(out, device="cpu")(np.zeros((64, 96, 3), np.uint8)).classes == names


def test_bad_input_is_one_line_and_leaves_the_old_file(tensorflows, tmp_path, monkeypatch, capsys):
    source, _ = tensorflows
    old = tmp_path / "old.safetensors"
    assert convert(monkeypatch, source, old) == 0
    before = old.read_bytes()
    (tmp_path / "names.txt").write_text("one\n")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "noise.pth").write_bytes(bytes(range(100, 200)))
    capsys.readouterr()
    for arguments, message in (
        ((source, tmp_path / "out.pth"), "must end in .safetensors"),
        ((old, old), "is the file that is read"),
        ((tmp_path / "none.pth", old), "no such weights file"),
        ((tmp_path / "text.pth", old), "cannot be read as weights"),
        ((tmp_path / "noise.pth", old), "damaged or would run code"),
        ((source, old, "--classes", tmp_path / "names.txt"), "has 4 classes, and 1 names were given"),
        ((source, old, "--classes", tmp_path / "none.txt"), "none.txt: cannot be read"),
        ((source, old, "--norm-eps", "-1"), "--norm-eps -1.0 must be above 0"),
    ):
        assert convert(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert old.read_bytes() == before
    assert load_description(old)["task"] == "classification"
    with pytest.raises(InputError, match="is a classifier"):
        predict.load(old)
    with pytest.raises(InputError, match="unknown layout"):
        det.from_weights({"x": torch.zeros(1)})
