"""Detectors without NMS through the commands: training, evaluation, prediction and exported files."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import det
from backbone.errors import InputError
from det import postprocess
from tests.builders.exported import SIZE, description_of, images, make_model, network_output, save
from tests.builders.runs import log_of, whole_and_in_parts
from tools import eval_det, export, predict
from tools.exporting.graph import image_graph
from tools.exporting.parity import compare
from tools.exporting.torch_format import write_torch
from tools.io.model_file import load_description, save_model
from tools.predict import load
from tools.predicting.models import load_to_predict

ARGUMENTS = {**description_of("detection")["model"], "head": "pico96", "one_to_one": True}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A detector with both sets of predictors, whose decisions differ from place to place."""
    torch.manual_seed(0)
    model = det.create(**ARGUMENTS).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for layers in model.head.output_layers():
        for layer in layers:
            torch.nn.init.normal_(layer.weight, std=0.3)
            torch.nn.init.zeros_(layer.bias)
    path = tmp_path_factory.mktemp("dual") / "dual.safetensors"
    save_model(path, model, description_of("detection") | {"model": ARGUMENTS})
    return path


@pytest.fixture(scope="module")
def exported(weights):
    """The detector's file without NMS, by the command."""
    out = weights.with_suffix(".onnx")
    arguments = ["--weights", str(weights), "--format", "onnx", str(out), "--no-nms", "--score-threshold", "0.5"]
    assert export.main(arguments) == 0
    return out


def expected_of(weights, frame):
    """What the one-to-one predictors find in a frame of the input's size, best first."""
    model = det.create(**ARGUMENTS)
    det.load_weights(model, weights)
    model.keep(one_to_one=True)
    raw = network_output(model, frame[None])
    finish = det.PostProcess("sigmoid", score_threshold=0.5, nms_iou=None, decode=model.head.decode)
    return finish(raw, model.anchors, SIZE, [SIZE])[0]


def assert_found(result, expected):
    assert len(result.scores) == len(expected.scores) > 5
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5)
    # Scores that differ by rounding may change places.
    apart = np.abs(result.boxes[:, None] - expected.boxes[None].numpy()).max(-1)
    same = (apart < 1e-2) & (np.abs(result.scores[:, None] - expected.scores[None].numpy()) < 1e-5)
    assert (same & (result.labels[:, None] == expected.labels[None].numpy())).any(1).all()


def test_a_predictor_without_nms_gives_the_one_to_one_predictors_boxes(weights):
    frame = images(1)[0]
    predictor = load(weights, nms=False, score_threshold=0.5)
    assert_found(predictor(frame), expected_of(weights, frame))
    with_nms = load(weights, score_threshold=0.5)(frame)
    assert len(with_nms.scores) and not np.isin(with_nms.scores, predictor(frame).scores).any()


def test_an_exported_file_without_nms_gives_the_same_boxes(weights, exported):
    frame = images(1)[0]
    for arguments in ({}, {"nms": False}):
        assert_found(load(exported, score_threshold=0.5, **arguments)(frame), expected_of(weights, frame))
    graph = onnx.load(exported).graph
    sides = [[side.dim_value for side in output.type.tensor_type.shape.dim] for output in graph.output]
    assert sides == [[1, 300, 4], [1, 300], [1, 300]]
    assert not {"NonMaxSuppression", "NonZero", "Loop", "If"} & {node.op_type for node in graph.node}
    record = json.loads(exported.with_name(f"{exported.name}.parity.json").read_text())
    assert record["export"]["nms_iou"] is None and record["parity"]["boxes"] > 50
    assert not any("one_to_one" in tensor.name for tensor in graph.initializer)


def test_a_file_that_lacks_a_box_moves_one_or_has_a_second_is_no_copy(weights, monkeypatch):
    model, description = load_to_predict(weights, nms=False)
    graph = image_graph(model, description, output="final", score_threshold=0.5)
    batch = images(1)

    def run(change):
        found = {name: value.numpy() for name, value in zip(graph.names, graph(torch.from_numpy(batch)), strict=True)}
        change(found)
        return compare(model, graph.description, lambda _: found, [batch]).fault

    def drop(found):
        for name in found:
            found[name][:, 2:-1] = found[name][:, 3:].copy()

    def move(found):
        found["boxes"][:, 2] += 0.5

    assert run(lambda found: None) is None
    assert "boxes differ" in run(drop) and "boxes differ" in run(move)
    monkeypatch.setattr(postprocess, "peaks", lambda scores, _: scores)
    graph = image_graph(model, description, output="final", score_threshold=0.5)
    every = {name: value.numpy() for name, value in zip(graph.names, graph(torch.from_numpy(batch)), strict=True)}
    monkeypatch.undo()
    assert "boxes differ" in compare(model, graph.description, lambda _: every, [batch]).fault


def test_what_needs_nms_is_refused(randomise, tmp_path):
    model = make_model("detection", randomise)
    plain = save(tmp_path, "detection", model)
    told = "the boxes of a head with anchors need NMS; train a pico head, or leave --no-nms out"
    with pytest.raises(InputError, match=f"detection.safetensors: {told}"):
        load(plain, nms=False)
    with pytest.raises(InputError, match=told):
        export.main(["--weights", str(plain), "--format", "onnx", "--no-nms"])
    write_torch(image_graph(model, description_of("detection")), plain.with_suffix(".pt2"))
    with pytest.raises(InputError, match="its boxes need NMS; export the weights with --no-nms"):
        load(plain.with_suffix(".pt2"), nms=False)
    street = save(tmp_path, "segmentation", make_model("segmentation", randomise))
    with pytest.raises(InputError, match="--no-nms: is of detectors"):
        export.main(["--weights", str(street), "--format", "onnx", "--size", "64", "96", "--no-nms"])
    with pytest.raises(InputError, match="--no-nms needs --weights"):
        eval_det.main(["--results", "detections.json", "--data", str(tmp_path), "--no-nms"])


def test_a_run_trains_both_resumes_to_the_bit_and_is_scored_either_way(world, tmp_path, monkeypatch):
    own = ["model.head=pico96", "model.one_to_one=true", "run.steps=3", "run.eval_every=9", "run.log_every=1"]
    whole_and_in_parts("det", own, world, tmp_path, monkeypatch)
    log = log_of(tmp_path / "whole")
    assert log == log_of(tmp_path / "parts") and any(",one_class_loss," in line for line in log)

    best = tmp_path / "whole" / "best.safetensors"
    assert load_description(best)["model"]["one_to_one"]
    found = {}
    for name, option in (("many", []), ("one", ["--no-nms"])):
        written = tmp_path / f"{name}.json"
        scored = ["--weights", str(best), "--data", str(world / "coco"), "--out", str(tmp_path / name)]
        assert eval_det.main([*scored, "--save-predictions", str(written), *option]) == 0
        found[name] = json.loads(written.read_text())
    assert found["one"] != found["many"] and len(found["one"]) > 100

    folder = tmp_path / "found"
    source = str(next((world / "coco" / "val2017").iterdir()))
    options = ["--weights", str(best), "--source", source, "--output", str(folder), "--no-nms"]
    assert predict.main([*options, "--score-threshold", "0.001", "--engine", "torch"]) == 0
    of_image = [box for box in found["one"] if box["image_id"] == int(Path(source).stem) and box["score"] > 0.001]
    assert len(json.loads((folder / "detections.json").read_text())) == len(of_image)
