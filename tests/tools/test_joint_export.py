"""Exported joint networks: one file with the outputs of both heads, which are those of the single models."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

import det
from backbone.errors import InputError
from backbone.weights.description import KEY
from seg.data.opening import open_data
from tests.builders.exported import COMMON, SIZE, images, network_output
from tests.builders.joint import HEADS, make_joint, save_joint
from tools import eval_joint, export
from tools.engines.sessions import as_output
from tools.exporting import int8
from tools.exporting.formats import FORMATS
from tools.exporting.graph import head_outputs, image_graph
from tools.exporting.parity import compare
from tools.io.model_file import save_model
from tools.joint.predictor import HeadEngine
from tools.joint.weights import describe, head_description
from tools.joint.weights import load as load_joint
from tools.predict import load

SINGLE_SIZE = [str(side) for side in SIZE]


@pytest.fixture
def weights(tmp_path, randomise):
    return save_joint(tmp_path / "joint.safetensors", make_joint(randomise))


@pytest.mark.parametrize("output", ["raw", "final"])
def test_a_graph_gives_what_the_graphs_of_the_single_models_give(weights, output):
    network, description = load_joint(weights)
    options = {"output": output, "size_hw": (96, 128), "batch": 2, "score_threshold": 0.2}
    graph = image_graph(network, description, **options)
    batch = torch.from_numpy(images(2, (96, 128)))
    found = dict(zip(graph.names, graph(batch), strict=True))
    renamed = {"labels": "box_labels"} if output == "final" else {}
    wanted = {}
    for name in network.tasks:
        single = image_graph(network.single(name), head_description(description, name), **options)
        names = renamed if name == "detection" else {}
        wanted |= {names.get(key, key): value for key, value in zip(single.names, single(batch), strict=True)}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in found)
    if output == "final":
        assert graph.names == ("labels", "boxes", "scores", "box_labels")
        assert len(found["labels"].unique()) > 1 and (found["scores"] > 0).sum() > 2


def test_a_file_says_what_both_heads_need_and_runs_as_the_weights_do(weights, tmp_path, capsys):
    out = tmp_path / "joint.onnx"
    options = ["--weights", str(weights), "--format", "onnx", "--score-threshold", "0.2", str(out)]
    assert export.main(options) == 0
    assert "gives labels, boxes, scores, box_labels" in capsys.readouterr().out
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    description = json.loads(metadata[KEY])
    assert description["task"] == "joint" and description["heads"]["detection"]["classes"] == ["car", "bus", "dog"]
    entry = description["export"]
    assert entry["size"] == list(SIZE) and entry["score_threshold"] == 0.2 and entry["stride"] == 8
    assert entry["heads"]["detection"]["outputs"] == {"boxes": "boxes", "scores": "scores", "labels": "box_labels"}
    record = json.loads((tmp_path / "joint.onnx.parity.json").read_text())["parity"]
    assert record["segmentation"]["labels_that_differ"] == record["detection"]["boxes_that_differ"] == 0
    assert record["detection"]["boxes"] > 2
    frame = images(1)[0]
    want = load(weights, "torch", device="cpu")(frame)
    for engine in ("onnxruntime", "openvino"):
        model = load(out, engine)
        result = model(frame)
        assert model.task == "joint" and (result.labels != want.labels).mean() < 0.002
        np.testing.assert_allclose(result.boxes, want.boxes, atol=0.01)
        assert np.array_equal(result.box_labels, want.box_labels) and len(result.boxes)
    with pytest.raises(InputError, match="gives labels without scores"):
        load(out, scores=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_other_formats_give_the_same(weights, tmp_path, name):
    out = tmp_path / f"joint{FORMATS[name].suffix}"
    assert export.main(["--weights", str(weights), "--format", name, "--output", "raw", str(out)]) == 0
    frame = images(1, (90, 130))[0]
    want, result = load(weights, "torch", device="cpu", scores=True)(frame), load(out, scores=True)(frame)
    assert (result.labels != want.labels).mean() < 0.002
    np.testing.assert_allclose(result.label_scores, want.label_scores, atol=1e-3)
    np.testing.assert_allclose(result.boxes, want.boxes, atol=0.01)


def test_a_file_that_differs_in_one_head_is_told_by_its_name(weights):
    network, description = load_joint(weights)
    network.eval()
    graph = image_graph(network, description, output="final", score_threshold=0.2)
    session = {"segmentation": 0.0, "detection": 0.0}

    def run(batch):
        found = {name: value.numpy() for name, value in zip(graph.names, graph(torch.from_numpy(batch)), strict=True)}
        found["boxes"] = found["boxes"] + session["detection"]
        return found

    inputs = [images(1), images(1)[:, ::-1].copy()]
    assert compare(network, graph.description, run, inputs).fault is None
    session["detection"] = 1.0  # pixels
    fault = compare(network, graph.description, run, inputs).fault
    assert fault is not None and fault.startswith("detection: ") and "boxes differ" in fault


def test_outputs_of_a_second_head_of_a_task_begin_with_its_name(randomise):
    heads = HEADS | {"parts": {"task": "segmentation", "head": "lraspp", "num_classes": 4}}
    network = make_joint(randomise, **heads)
    outputs = head_outputs(network, "raw")
    assert outputs["parts"] == {"logits": "parts.logits"} and outputs["segmentation"] == {"logits": "logits"}
    assert list(outputs) == ["segmentation", "parts", "detection"]
    raw = network_output(network, images(1))
    flat = {
        outputs[head][own]: value
        for head, values in raw.items()
        for own, value in zip(outputs[head], [values] if isinstance(values, torch.Tensor) else values, strict=True)
    }
    again = as_output(flat, "test", outputs)
    assert torch.equal(again["parts"], raw["parts"]) and torch.equal(
        again["detection"][1], raw["detection"].box_offsets
    )


def test_a_joint_file_with_any_number_of_images_has_one_size(weights):
    network, description = load_joint(weights)
    graph = image_graph(network, description, output="final", dynamic=True)
    assert graph.batch is None and graph.size_hw == SIZE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "ncnn", "--output", "final"), "cannot hold labels of pixels"),
        (("--format", "coreml", "--output", "final"), "cannot hold the choice of boxes"),
        (("--format", "onnx", "--taps", "last"), "fit a classifier's weights"),
        (("--format", "onnx", "--output", "raw", "--score-threshold", "0.5"), "only the final output"),
    ],
)
def test_what_cannot_be_exported_is_refused(weights, options, message, monkeypatch):
    for name, chosen in FORMATS.items():
        monkeypatch.setitem(FORMATS, name, chosen._replace(check=lambda: None))  # whatever is installed
    with pytest.raises(InputError, match=message):
        export.main(["--weights", str(weights), *options])


@pytest.fixture
def of_the_world(tmp_path, randomise, world):
    """The file of a joint network for the demo world's classes, whose detector's images are letterboxed."""
    boxes = det.CocoDetection(world / "coco", "val2017")
    areas = open_data(world / "cityscapes", "val")
    detection = {"head": "ssdlite", "num_classes": len(boxes.classes), "image_size": [64, 96], "resize": "letterbox"}
    network = make_joint(
        randomise, segmentation={"head": "lraspp", "num_classes": len(areas.classes)}, detection=detection
    )
    tables = {
        "segmentation": {"classes": areas.classes, "colors": [list(color) for color in areas.colors]},
        "detection": {"classes": boxes.classes, "category_ids": boxes.category_ids, "score": "softmax"},
    }
    path = tmp_path / "joint.safetensors"
    save_model(path, network, describe(network, tables, mean=COMMON["mean"], std=COMMON["std"]))
    return path


@pytest.mark.slow
def test_an_int8_file_is_judged_by_both_heads(of_the_world, world, tmp_path, capsys):
    out = tmp_path / "joint_int8.onnx"
    options = ["--weights", str(of_the_world), "--format", "onnx", "--int8", "--calibration", "4", str(out)]
    data = ["--segmentation", str(world / "cityscapes"), "--detection", str(world / "coco")]
    assert export.main([*options, *data, "--max-loss", "100", "--score-threshold", "0.01"]) == 0
    assert "calibrating on 2 and 2 pictures" in capsys.readouterr().out
    record = json.loads((tmp_path / "joint_int8.onnx.parity.json").read_text())
    heads = record["int8"]["heads"]
    assert {name: head["metric"] for name, head in heads.items()} == {"segmentation": "miou", "detection": "AP"}
    assert heads["segmentation"]["float32"] > 0 and record["int8"]["calibration_images"] == 4
    assert record["bytes"] == out.stat().st_size < of_the_world.stat().st_size
    assert eval_joint.main(["--weights", str(out), *data, "--workers", "0", "--out", str(tmp_path)]) == 0
    scored = json.loads((tmp_path / "metrics.json").read_text())
    assert scored["segmentation"]["miou"] == pytest.approx(heads["segmentation"]["int8"])
    assert scored["detection"]["AP"] == pytest.approx(heads["detection"]["int8"], abs=1e-9)
    assert scored["detection"]["engine"] == "onnxruntime" and "above 0.01" in scored["detection"]["protocol"]
    result = load(out)(images(1)[0])
    assert result.labels.shape == SIZE and result.box_classes == list(det.CocoDetection(world / "coco").classes)


def test_an_int8_file_that_loses_in_one_head_is_refused():
    head = {"metric": "AP", "images": 9, "float32": 0.5, "int8": 0.48, "points_lost": 2.0}
    other = {**head, "metric": "miou", "int8": 0.5, "points_lost": 0.0}
    cost = {"points_allowed": 1.0, "heads": {"segmentation": other, "detection": head}}
    assert int8.fault_of(cost) == (
        "AP on 9 pictures 0.5000 in float32, 0.4800 in int8, 2.00 points less; allowed are 1"
    )
    assert int8.fault_of(cost | {"points_allowed": 2.0}) is None
    head["points_lost"] = float("nan")
    assert int8.fault_of(cost) is not None


def test_letterboxed_labels_are_scored_as_the_predictor_gives_them(of_the_world, world, monkeypatch):
    network, description = load_joint(of_the_world)
    described = image_graph(network, description, output="final").description
    data = {"segmentation": world / "cityscapes", "detection": world / "coco"}
    predictor = load(of_the_world, "torch", device="cpu")
    labels = []

    def evaluate(label, dataset, *, accelerator):
        labels.extend(label(dataset[index].image) for index in range(2))
        return SimpleNamespace(metrics={"miou": 0.5})

    monkeypatch.setattr(int8.segmentation, "evaluate", evaluate)
    pictures = int8.open_pictures(network, described, data, None)["segmentation"]
    pictures.score(HeadEngine(predictor.network, "segmentation"))
    assert isinstance(pictures, int8.SegmentationPictures)
    for index, found in enumerate(labels):
        want = predictor(pictures.val.read(index)[0]).labels
        assert len(np.unique(want)) > 1 and np.array_equal(found, want)


def test_int8_needs_the_data_of_both_heads(weights, tmp_path):
    options = ["--weights", str(weights), "--format", "onnx", "--int8", str(tmp_path / "joint.onnx")]
    with pytest.raises(InputError, match="needs --detection, a data set"):
        export.main([*options, "--segmentation", "somewhere"])
    both = ["--segmentation", "somewhere", "--detection", "somewhere"]
    with pytest.raises(InputError, match="--data: is no data of this model, which has --segmentation and --detection"):
        export.main([*options, *both, "--data", "somewhere"])
