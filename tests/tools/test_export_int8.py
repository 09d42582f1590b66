"""int8 files: what is quantised, what the metric says, and that a file which loses too much is not kept."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

import seg
from backbone.errors import InputError
from backbone.weights.description import KEY
from tools import export
from tools.engines.exported import ExportedEngine
from tools.engines.openvino_core import openvino_core
from tools.exporting import formats, int8
from tools.exporting.graph import ImageGraph, image_graph

SIZE_HW = (64, 96)


def inputs(count: int = 4) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [cv2.resize(random.integers(0, 256, (4, 6, 3), np.uint8), SIZE_HW[::-1])[None] for _ in range(count)]


@pytest.fixture(scope="module")
def segmenter() -> ImageGraph:
    """LR-ASPP on the network with all that is hard: squeeze-and-excite, hard-swish, depthwise convolutions."""
    torch.manual_seed(0)
    model = seg.create(backbone="mobilenet_v3_small", num_classes=4, width=0.5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 1.5)
    description = {"task": "segmentation", "model": {}, "classes": list("abcd"), "colors": [[0, 0, 0]] * 4}
    description |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    return image_graph(model.eval(), description, output="final", size_hw=SIZE_HW)


@pytest.fixture(scope="module")
def quantised(segmenter, tmp_path_factory) -> Path:
    """A folder of a float32 and an int8 ONNX file."""
    folder = tmp_path_factory.mktemp("int8")
    formats.FORMATS["onnx"].write(segmenter, folder / "float.onnx")
    int8.quantise_onnx(folder / "float.onnx", folder / "int8.onnx", inputs())
    return folder


def test_an_int8_file_is_smaller_and_says_what_it_is(quantised):
    assert (quantised / "int8.onnx").stat().st_size < 0.75 * (quantised / "float.onnx").stat().st_size
    assert sorted(path.name for path in quantised.iterdir()) == ["float.onnx", "int8.onnx"]
    before, after = (
        json.loads(onnx.load(quantised / name).metadata_props[0].value) for name in ("float.onnx", "int8.onnx")
    )
    assert after["export"].pop("int8") is True and after == before


def test_what_breaks_in_8_bits_stays_in_floating_point(quantised):
    graph = onnx.load(quantised / "int8.onnx").graph
    made_by = {name: node for node in graph.node for name in node.output}
    kinds = {}
    for node in graph.node:
        if node.op_type == "Conv":
            is_int8 = made_by[node.input[1]].op_type == "DequantizeLinear" if node.input[1] in made_by else False
            kinds.setdefault(is_int8, []).append(node)
    names = {is_int8: " ".join(node.output[0] for node in nodes) for is_int8, nodes in kinds.items()}
    # The stem; two layers of squeeze-and-excite in each of nine blocks; the head's pooled branch and two classifiers.
    assert len(kinds[False]) == 1 + 2 * 9 + 1 + 2, names[False]
    assert len(kinds[True]) > 25
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in kinds[True]:  # one scale for each output channel
        dequantise = made_by[node.input[1]]
        assert list(weights[dequantise.input[1]].dims) == [weights[dequantise.input[0]].dims[0]]


def test_all_pictures_count_for_the_calibration(segmenter, quantised, tmp_path):
    """onnxruntime's own limit on memory forgets what came before the last few."""
    dark = [np.full((1, *SIZE_HW, 3), 127, np.uint8)]
    int8.quantise_onnx(quantised / "float.onnx", tmp_path / "two.onnx", [*inputs(), *dark])
    scales = []
    for path in (quantised / "int8.onnx", tmp_path / "two.onnx"):
        graph = onnx.load(path).graph
        first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
        scales.append(next(onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == first.input[1]))
    assert scales[1] >= scales[0]


def test_openvino_keeps_the_same_layers_in_floating_point(segmenter, tmp_path):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    formats.FORMATS["openvino"].write(segmenter, tmp_path / "float.xml")
    int8.quantise_openvino(tmp_path / "float.xml", tmp_path / "int8.xml", inputs())
    model = openvino_core().read_model(tmp_path / "int8.xml")
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    in_float = [op for op in convolutions if source_of_weights(op).get_element_type() == openvino.Type.f32]
    assert len(in_float) == 2 * 9 + 1 + 2 and len(convolutions) - len(in_float) > 25
    described = json.loads(model.get_rt_info(KEY).astype(str))
    assert described["export"]["int8"] is True and described["classes"] == list("abcd")
    found = formats.FORMATS["openvino"].open(tmp_path / "int8.xml")(inputs()[0])
    assert found["labels"].shape == (1, *SIZE_HW) and found["labels"].dtype == np.uint8


def source_of_weights(op):
    """The constant behind a convolution's weights."""
    node = op.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node


def test_a_file_that_finds_what_is_annotated_scores_1(finished, world):
    """Boxes and labels go from the input's pixels to the picture's, as the evaluations have them."""
    from tools.predicting.models import load_model

    model, description = load_model(finished["det"] / "best.safetensors")
    described = image_graph(model, description, output="final").description
    boxes = int8.open_pictures(model, described, {"data": world / "coco"}, None)["detection"]
    assert isinstance(boxes, int8.DetectionPictures)
    samples = (boxes.val[index] for index in range(boxes.num_scored))

    def annotated(images: np.ndarray) -> dict[str, np.ndarray]:
        sample = next(samples)
        real = sample.labels.numpy() >= 0  # without crowds
        places = 300 - real.sum()  # a file's boxes are padded to as many as there can be
        padding = ((0, 0), (0, places))
        labels, scores = (
            np.pad(values[None], padding) for values in (sample.labels.numpy()[real], np.ones(real.sum()))
        )
        found = np.pad(sample.boxes.numpy()[real], ((0, places), (0, 0)))[None]
        return {"boxes": found, "scores": scores.astype(np.float32), "labels": labels}

    network = ExportedEngine("file", Path("file"), annotated, described)
    assert boxes.score(network) == pytest.approx(1.0)
    assert len(list(boxes.inputs(3))) == 3 and next(boxes.inputs(1)).shape == (1, *model.image_size_hw, 3)

    model, description = load_model(finished["seg"] / "best.safetensors")
    described = image_graph(model, description, output="final", size_hw=(192, 384)).description
    pixels = int8.open_pictures(model, described, {"data": world / "cityscapes"}, None)["segmentation"]
    assert isinstance(pixels, int8.SegmentationPictures)
    truth = (pixels.val.read(index)[1] for index in range(pixels.num_scored))

    def labelled(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"labels": next(truth).repeat(2, 0).repeat(2, 1)[None]}

    assert pixels.score(ExportedEngine("file", Path("file"), labelled, described)) == pytest.approx(1.0)


@pytest.mark.parametrize("lost", [0.4, 2.0])
def test_a_file_that_loses_too_much_is_deleted(lost, finished, world, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    scores = iter([0.5, 0.5 - lost / 100])
    monkeypatch.setattr(int8.SegmentationPictures, "score", lambda self, network: next(scores))
    out = tmp_path / "small.onnx"
    arguments = ["--format", "onnx", "--size", "64", "96", "--int8", "--data", str(world / "cityscapes"), str(out)]
    code = export.main(["--weights", str(finished["seg"] / "best.safetensors"), "--calibration", "2", *arguments])
    if lost > 1:
        assert code == 1 and list(tmp_path.iterdir()) == []
        assert "2.00 points less; allowed are 1" in capsys.readouterr().err
        return
    assert code == 0
    record = json.loads((tmp_path / "small.onnx.parity.json").read_text())
    assert record["bytes"] == out.stat().st_size
    assert record["int8"]["heads"]["segmentation"]["points_lost"] == pytest.approx(0.4)
    assert record["int8"]["calibration_images"] == 2
    assert record["parity"]["labels_that_differ"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--int8"], "needs --data"),
        (["--data", "somewhere"], "--data: is of --int8"),
        (["--max-loss", "2"], "--max-loss: is of --int8"),
        (["--int8", "--data", "somewhere", "--calibration", "0"], "must be 1 or more"),
        (["--int8", "--data", "somewhere", "--format", "torch"], "valid: onnx, openvino"),
        (["--int8", "--data", "somewhere"], "somewhere"),
        (["--int8", "--segmentation", "somewhere"], "--int8: needs --data"),
    ],
)
def test_what_cannot_be_quantised_is_said_in_one_line(options, message, finished, tmp_path):
    format = [] if "--format" in options else ["--format", "onnx"]
    weights = ["--weights", str(finished["seg"] / "best.safetensors"), "--size", "64", "96"]
    with pytest.raises(InputError, match=message) as refused:
        export.main([*weights, *format, *options, str(tmp_path / ("m.pt2" if "torch" in options else "m.onnx"))])
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_a_network_without_a_task_has_no_metric():
    with pytest.raises(InputError, match="needs a segmenter or a detector"):
        int8.open_pictures(torch.nn.Identity(), {}, {"data": Path("somewhere")}, None)
