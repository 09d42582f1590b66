"""Weights files of an earlier release: every tool reads them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import backbone
import det
import seg
from backbone.errors import InputError
from backbone.weights.description import KEY
from seg.data import cityscapes
from tools import eval_det, eval_seg
from tools.io.model_file import find_description, load_description, save_model
from tools.predict import load
from tools.scoring.classification import load_classifier

NORMALISATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SMALL = {"backbone": "mobilenet_v3_small_squeeze_first", "width": 0.35}


def write_format_0(path: Path, model: nn.Module, description: dict) -> Path:
    """A file as taproot 0.1 wrote it."""
    save_file(model.state_dict(), path, {KEY: json.dumps(description | NORMALISATION)})
    return path


@pytest.fixture
def segmenter_file(tmp_path: Path) -> Path:
    settings = {"width": 0.35, "head_channels": 16, "align_corners": True}
    model = seg.create(backbone="mobilenet_v3_small_se_before_activation", **settings)
    arguments = {**SMALL, "head": "lraspp", "num_classes": 19, "filters": 16, "alignment": "corners"}
    described = {"task": "segmentation", "model": arguments, "classes": cityscapes.NAMES, "colors": cityscapes.COLORS}
    return write_format_0(tmp_path / "seg.safetensors", model, described | {"step": 5, "scores": {"miou": 0.5}})


@pytest.fixture
def detector_file(tmp_path: Path, world: Path) -> Path:
    found = det.CocoDetection(world / "coco", split="val2017")
    model = det.create(
        "ssdlite_fpn",
        backbone="mobilenet_v3_small_se_before_activation",
        width=0.35,
        num_classes=len(found.classes),
        image_size=96,
        head_channels=16,
    )
    arguments = {**SMALL, "head": "ssdlite_fpn", "num_classes": len(found.classes), "image_size": 96, "filters": 16}
    described = {"task": "detection", "model": arguments, "classes": found.classes, "score": "sigmoid"}
    return write_format_0(
        tmp_path / "det.safetensors", model, described | {"category_ids": found.category_ids, "scores": {"AP": 0.1}}
    )


def test_a_segmenter_of_format_0_predicts_loads_and_is_scored(segmenter_file, world, tmp_path):
    assert load_description(segmenter_file)["metrics"] == {"miou": 0.5}
    model = seg.create(**load_description(segmenter_file)["model"])
    assert seg.load_weights(model, segmenter_file) == "taproot"
    frame = np.zeros((64, 96, 3), np.uint8)
    assert load(segmenter_file, device="cpu")(frame).labels.shape == (64, 96)
    arguments = ["--data", str(world / "cityscapes"), "--weights", str(segmenter_file), "--workers", "0"]
    assert eval_seg.main([*arguments, "--out", str(tmp_path / "out")]) == 0


def test_a_detector_of_format_0_predicts_loads_and_is_scored(detector_file, world, tmp_path):
    model = det.create(**load_description(detector_file)["model"])
    assert det.load_weights(model, detector_file) == "taproot"
    frame = np.zeros((64, 96, 3), np.uint8)
    assert load(detector_file, device="cpu")(frame).boxes.shape[1] == 4
    arguments = ["--data", str(world / "coco"), "--weights", str(detector_file), "--workers", "0"]
    assert eval_det.main([*arguments, "--out", str(tmp_path / "out")]) == 0


def test_a_classifier_of_format_0_is_found_and_scored(tmp_path):
    arguments = {"name": "mobilenet_v3_small_squeeze_first", "num_classes": 2, "width": 0.35}
    model = backbone.classifier("mobilenet_v3_small_se_before_activation", num_classes=2, width=0.35)
    described = {"task": "classification", "model": arguments, "classes": ["cat", "dog"], "size": 32, "crop_pct": 0.875}
    path = write_format_0(tmp_path / "classifier.safetensors", model, described)
    found = backbone.from_weights(path)
    assert found.name == "mobilenet_v3_small_se_before_activation" and found.classes == ["cat", "dog"]
    assert torch.equal(found.classifier.output.weight, model.output.weight)
    scored, description = load_classifier(path)
    assert torch.equal(scored.output.weight, model.output.weight) and description["size"] == 32
    # The body of any of our files serves a model of another task.
    body = backbone.create("mobilenet_v3_small_se_before_activation", width=0.35)
    assert backbone.load_weights(body, path) == "taproot"


def test_a_file_of_a_newer_format_is_refused_by_every_reader(tmp_path):
    model = seg.create(backbone="mobilenet_v3_small", width=0.35)
    path = tmp_path / "new.safetensors"
    save_file(model.state_dict(), path, {KEY: json.dumps({"format": 99, "task": "segmentation"})})
    for read in (load_description, find_description, load, backbone.from_weights, backbone.read_weights):
        with pytest.raises(InputError, match=r"new.safetensors: was written by a newer taproot \(format 99"):
            read(path)
    with pytest.raises(InputError, match="newer taproot"):
        seg.load_weights(model, path)


def test_others_may_read_a_file_as_the_users_mask_says(tmp_path):
    description = {"task": "segmentation", "model": {}, "classes": [], **NORMALISATION}
    before = os.umask(0o022)
    try:
        save_model(tmp_path / "best.safetensors", nn.Linear(2, 2), description)
    finally:
        os.umask(before)
    assert (tmp_path / "best.safetensors").stat().st_mode & 0o777 == 0o644
    assert load_description(tmp_path / "best.safetensors") == description
