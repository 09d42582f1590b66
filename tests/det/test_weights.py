"""Weights of whole detectors: torchvision's SSDLite gives the same numbers, everything else is refused."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v3_large
from torchvision.models.detection import ssdlite as torchvision_ssdlite
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import det
from backbone.errors import InputError
from det.weights import UNUSED_IDS
from tools.io.model_file import save_model


def randomise(model: nn.Module) -> nn.Module:
    """Weights and norm statistics that make every layer matter."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.6, 1.2)
            nn.init.normal_(layer.bias, std=0.2)
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.7, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return randomise(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91))


@pytest.fixture(scope="module")
def ours(theirs) -> det.Detector:
    model = det.create("ssdlite", num_classes=91, variant="torchvision").eval()
    assert det.load_weights(model, theirs.state_dict()) == "torchvision"
    return model


def raw_of_torchvision(model: nn.Module, images: torch.Tensor) -> det.RawDetections:
    output = model.head(list(model.backbone(images).values()))
    return det.RawDetections(output["cls_logits"], output["bbox_regression"])


def assert_raw_equal(one: det.RawDetections, other: det.RawDetections) -> None:
    for mine, their in zip(one, other, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5 * their.abs().max().item())


@torch.inference_mode()
def test_torchvision_weights_give_its_raw_output(theirs, ours):
    images = torch.randn(2, 3, 320, 320)
    assert_raw_equal(ours(images), raw_of_torchvision(theirs, images))


@torch.inference_mode()
def test_torchvision_weights_give_its_detections(theirs, ours):
    image = torch.rand(3, 240, 400)
    (expected,) = theirs([image])
    inputs, _ = theirs.transform([image], None)
    process = det.PostProcess("softmax", background=True)
    (found,) = process(ours(inputs.tensors), ours.anchors, (320, 320), [(240, 400)])
    assert len(found.scores) == len(expected["scores"]) > 0
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-2)
    assert torch.equal(found.labels + 1, expected["labels"])


@torch.inference_mode()
def test_weights_trained_over_a_full_backbone_load_with_the_full_tail(monkeypatch):
    # Weights for the backbone are what makes torchvision build the full tail; the download is left out.
    monkeypatch.setattr(
        torchvision_ssdlite,
        "mobilenet_v3_large",
        lambda *, weights, progress, norm_layer, reduced_tail: mobilenet_v3_large(norm_layer=norm_layer),
    )
    theirs = randomise(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone="IMAGENET1K_V1", num_classes=4))
    ours = det.create("ssdlite", num_classes=4, variant="torchvision", tail="full").eval()
    det.load_weights(ours, theirs.state_dict())
    images = torch.randn(1, 3, 320, 320)
    assert_raw_equal(ours(images), raw_of_torchvision(theirs, images))


@torch.inference_mode()
def test_91_outputs_are_cut_to_the_80_categories_without_changing_the_others(theirs, ours):
    cut = det.create("ssdlite", num_classes=81, variant="torchvision").eval()
    assert det.load_weights(cut, theirs.state_dict()) == "torchvision" and cut.num_objects == 80
    images = torch.randn(2, 3, 320, 320)
    whole, part = ours(images), cut(images)
    used = [output for output in range(91) if output not in UNUSED_IDS]
    torch.testing.assert_close(part.class_logits, whole.class_logits[..., used], rtol=1e-6, atol=1e-5)
    assert torch.equal(part.box_offsets, whole.box_offsets)

    unused = whole.class_logits.softmax(2)[..., UNUSED_IDS].sum(2, keepdim=True)
    grown = whole.class_logits.softmax(2)[..., used] / (1 - unused)
    torch.testing.assert_close(part.class_logits.softmax(2), grown, rtol=1e-4, atol=1e-6)

    # Training never saw the unused ids, so their logits are very low; then the detections are the same.
    seldom = whole.class_logits.clone()
    seldom[..., UNUSED_IDS] = -40
    sizes = [(240, 400), (320, 320)]
    process = det.PostProcess("softmax", background=True)
    wholes = process(whole._replace(class_logits=seldom), ours.anchors, (320, 320), sizes)
    for mine, their in zip(process(part, cut.anchors, (320, 320), sizes), wholes, strict=True):
        assert len(mine.scores) == 300
        torch.testing.assert_close(mine.scores, their.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine.boxes, their.boxes, rtol=1e-4, atol=1e-3)
        assert [used[label + 1] for label in mine.labels] == (their.labels + 1).tolist()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_own_weights_survive_a_file(tmp_path, suffix):
    model = randomise(det.create("ssdlite", backbone="mobilenet_v3_small", num_classes=2, width=0.35))
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(model.state_dict(), path)
    fresh = det.create("ssdlite", backbone="mobilenet_v3_small", num_classes=2, width=0.35)
    assert det.load_weights(fresh, path) == "taproot"
    for name, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name


def test_weights_of_another_shape_are_refused_and_change_nothing(theirs):
    model = det.create("ssdlite", num_classes=21, variant="torchvision")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match="another shape"):
        det.load_weights(model, theirs.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change, message", [("missing", "missing"), ("extra", "unexpected")])
def test_missing_and_unexpected_weights_are_named(theirs, change, message):
    state = dict(theirs.state_dict())
    if change == "missing":
        del state["head.regression_head.module_list.3.1.bias"]
    else:
        state["head.regression_head.module_list.6.1.bias"] = torch.zeros(24)
    with pytest.raises(InputError, match=message):
        det.load_weights(det.create("ssdlite", num_classes=91, variant="torchvision"), state)


def test_the_padding_of_weights_must_be_the_models(tmp_path, theirs):
    arguments = {"backbone": "mobilenet_v3_small", "num_classes": 2, "width": 0.35}
    path = tmp_path / "best.safetensors"
    model = det.create(padding="same", **arguments)
    save_model(path, model, {"task": "detection", "model": arguments | {"padding": "same"}})
    assert det.load_weights(det.create(padding="same", **arguments), path) == "taproot"
    with pytest.raises(InputError, match="need padding='same', the model has 'symmetric'"):
        det.load_weights(det.create(**arguments), path)
    with pytest.raises(InputError, match="torchvision's weights need padding='symmetric'"):
        det.load_weights(det.create(num_classes=91, variant="torchvision", padding="same"), theirs.state_dict())


def test_unknown_layouts_and_broken_files_are_refused(tmp_path):
    model = SimpleNamespace()  # refused before the model is looked at
    with pytest.raises(InputError, match="unknown layout"):
        det.load_weights(model, {"conv1.weight": torch.zeros(1)})
    for name in ("weights.safetensors", "weights.pth"):
        path = tmp_path / name
        path.write_bytes(b"not weights")
        with pytest.raises(InputError, match=name):
            det.load_weights(model, path)
    with pytest.raises(InputError, match=r"absent\.pth"):
        det.load_weights(model, tmp_path / "absent.pth")


def test_published_weights_are_refused_by_another_head(theirs):
    with pytest.raises(InputError, match="torchvision's weights need head='ssdlite', the model has another"):
        det.load_weights(det.create("ssdlite_fpn"), theirs.state_dict())
