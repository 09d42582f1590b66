"""Formats for devices: what is refused, what stands in the files, and that they are the model where they can be run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import det
import seg
from backbone.errors import InputError
from backbone.weights.description import KEY
from det.boxes import RawDetections
from det.postprocess import StaticPostProcess
from tools.exporting.devices import PlanarGraph, device_metadata
from tools.exporting.executorch_format import without_shared_folding
from tools.exporting.export import make_graph
from tools.exporting.formats import FORMATS
from tools.exporting.graph import image_graph
from tools.exporting.ncnn_format import named
from tools.exporting.parity import compare
from tools.io import packages

TINY = """cn_k3_s2_c8_nhs ds_k3_e1_c8_nre ir_k3_s2_e2_c16_nre ir_k5_s2_e2_c16_se0.25_nre
    ir_k3_s2_e2_c24_nhs ir_k5_s2_e2_c32_se0.25_nhs cn_k1_s1_c64_nhs"""
"""A network of the parts of MobileNetV3, for seconds rather than minutes of conversion."""

GUIDE = Path(__file__).parents[2] / "docs/guides/devices.md"
STREET = {"task": "segmentation", "classes": list("abcde"), "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
THINGS = {"task": "detection", "classes": list("abc"), "mean": [0.5] * 3, "std": [0.5] * 3, "score": "sigmoid"}


@pytest.fixture
def segmenter(randomise):
    torch.manual_seed(0)
    return randomise(seg.create("lraspp", backbone=TINY, num_classes=5))


@pytest.fixture
def detector(randomise):
    torch.manual_seed(0)
    return randomise(det.create("ssdlite", backbone=TINY, num_classes=3, image_size=(64, 96)))


@pytest.fixture
def images() -> list[np.ndarray]:
    """Two inputs, uint8 [1, 64, 96, 3]: smooth, so that neighboring pixels agree as in pictures."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 96)[None, None, :, None]
    return [(ramp + generator.integers(0, 56, (1, 64, 96, 3))).astype(np.uint8) for _ in range(2)]


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("executorch", "pip install executorch"),
        ("litert", "pip install litert-torch"),
        ("coreml", "taproot[coreml]"),
        ("ncnn", "taproot[ncnn]"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command_that_brings_it(name, cure, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=re.escape(cure)) as refusal:
        FORMATS[name].check()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["executorch", "litert", "coreml", "ncnn"])
def test_what_a_format_cannot_hold_is_refused(name, segmenter, detector):
    options = {"size_hw": (64, 96), "channels": "bgr", "score_threshold": None}
    with pytest.raises(InputError, match="has one size"):
        make_graph(segmenter, STREET, FORMATS[name], **options, dynamic=True, output=None)
    if name in ("coreml", "ncnn"):
        with pytest.raises(InputError, match="cannot hold the choice of boxes; give raw"):
            make_graph(detector, THINGS, FORMATS[name], **options, dynamic=False, output="final")
        graph = make_graph(detector, THINGS, FORMATS[name], **options, dynamic=False, output=None)
        assert graph.names == ("class_logits", "box_offsets")
    if name == "ncnn":
        with pytest.raises(InputError, match="cannot hold labels of pixels; give raw"):
            make_graph(segmenter, STREET, FORMATS[name], **options, dynamic=False, output="final")


def test_norms_that_share_a_convolution_are_scales_for_executorch(randomise, images):
    """Its folding would change the shared weights once for each norm."""
    torch.manual_seed(0)
    model = randomise(det.create("ssdlite_fpn", backbone=TINY, num_classes=3, image_size=(64, 96)))
    graph = image_graph(model, THINGS, output="raw")
    changed = without_shared_folding(graph)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in graph.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in changed.modules())
    image = torch.from_numpy(images[0])
    torch.testing.assert_close(changed(image), graph(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", ["bgr", "rgb"])
def test_planes_of_floats_give_what_bytes_give(channels, segmenter, images):
    graph = image_graph(segmenter, STREET, output="raw", channels=channels, size_hw=(64, 96))
    image = torch.from_numpy(images[0])
    expected, found = graph(image), PlanarGraph(graph)(image.permute(0, 3, 1, 2).float())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    final = image_graph(segmenter, STREET, output="final", channels=channels, size_hw=(64, 96))
    (labels,) = PlanarGraph(final)(image.permute(0, 3, 1, 2).float())
    assert labels.shape == (1, 64, 96)


def test_anchors_stand_in_the_metadata_of_raw_boxes_only(segmenter, detector):
    raw = json.loads(device_metadata(image_graph(detector, THINGS, output="raw")))["export"]
    assert np.abs(np.array(raw["anchors"]) - detector.anchors.numpy()).max() < 1e-4
    assert raw["outputs"] == ["class_logits", "box_offsets"]
    for graph in (
        image_graph(detector, THINGS, output="final"),
        image_graph(segmenter, STREET, output="raw", size_hw=(64, 96)),
    ):
        assert "anchors" not in json.loads(device_metadata(graph))["export"]


def test_only_the_blobs_of_a_param_file_are_renamed():
    written = "7767517\n3 3\nInput in0 0 1 in0\nSplit out0 1 2 in0 1 2\nConcat cat_in0 2 1 1 2 out0 0=1 1=in0\n"
    renamed = "7767517\n3 3\nInput in0 0 1 image\nSplit out0 1 2 image 1 2\nConcat cat_in0 2 1 1 2 logits 0=1 1=in0\n"
    assert named(written, {"in0": "image", "out0": "logits"}) == renamed


@pytest.mark.parametrize(("variant", "kind"), [("paper", "sigmoid"), ("paper", "softmax"), ("torchvision", "softmax")])
def test_the_guides_decoder_gives_what_ours_gives(variant, kind):
    code = re.search(r"```python\n(import numpy as np\n\n\ndef decode.*?)```", GUIDE.read_text(), re.DOTALL)
    names = {}
    exec(code[1], names)
    model = det.create("ssdlite", backbone=TINY, num_classes=4, variant=variant, image_size=(96, 128))
    description = {**THINGS, "classes": list("abcd")[: model.num_objects], "score": kind, "nms_iou": 0.45}
    metadata = json.loads(device_metadata(image_graph(model, description, output="raw")))
    generator = torch.Generator().manual_seed(0)
    num_anchors = len(model.anchors)
    raw = RawDetections(
        torch.randn(1, num_anchors, 4, generator=generator) * 2 - 2, torch.randn(1, num_anchors, 4, generator=generator)
    )
    process = det.PostProcess(kind, model.background, score_threshold=0.3, nms_iou=0.45)
    (expected,) = process(raw, model.anchors, (96, 128), [(96, 128)])
    boxes, scores, labels = names["decode"](raw.class_logits[0].numpy(), raw.box_offsets[0].numpy(), metadata)
    assert 10 < len(expected.scores) < 300
    assert np.array_equal(labels, expected.labels.numpy())
    assert np.abs(scores - expected.scores.numpy()).max() < 1e-6
    assert np.abs(boxes - expected.boxes.numpy()).max() < 1e-3


def test_an_overlap_at_the_threshold_is_judged_as_in_float64():
    """0.55 in float32 is above 0.55: boxes that overlap by it are suppressed; 0.6 in float32 is above 0.6 too."""
    for nms_iou in (0.55, 0.6, 0.5, 0.45):
        process = StaticPostProcess(torch.zeros(1, 4), (32, 32), nms_iou=nms_iou)
        near = torch.tensor(nms_iou)
        overlaps = torch.stack([near, near.nextafter(torch.tensor(0.0)), near.nextafter(torch.tensor(1.0))])
        assert torch.equal(overlaps > process.most_overlap, overlaps.double() > nms_iou)


def test_ncnn_runs_what_is_written(segmenter, detector, images, tmp_path):
    for package in ("ncnn", "pnnx"):
        pytest.importorskip(package)
    for model, description in ((segmenter, STREET), (detector, THINGS)):
        graph = image_graph(model, description, output="raw", size_hw=(64, 96))
        path = tmp_path / f"{description['task']}.param"
        FORMATS["ncnn"].write(graph, path)
        run = FORMATS["ncnn"].open(path)
        found = compare(model, graph.description, run, images)
        assert found.fault is None, found
        assert json.loads(path.with_suffix(".json").read_text())["export"]["outputs"] == list(graph.names)
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(InputError, match="ncnn cannot load the file"):
        FORMATS["ncnn"].open(path)


def test_core_ml_takes_a_picture_and_gives_named_outputs(segmenter, detector, tmp_path):
    coremltools = pytest.importorskip("coremltools")
    for model, description, output, channels in (
        (segmenter, STREET, "raw", "bgr"),
        (segmenter, STREET, "final", "rgb"),
        (detector, THINGS, "raw", "bgr"),
    ):
        graph = image_graph(model, description, output=output, channels=channels, size_hw=(64, 96))
        path = tmp_path / f"{description['task']}_{output}.mlpackage"
        FORMATS["coreml"].write(graph, path)
        written = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description
        (image,) = written.input
        colors = coremltools.proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace.Value(channels.upper())
        picture = image.type.imageType
        assert (image.name, picture.height, picture.width, picture.colorSpace) == ("image", 64, 96, colors)
        assert [output.name for output in written.output] == list(graph.names)
        expected = graph(graph.example())
        shapes = [tuple(output.type.multiArrayType.shape) for output in written.output]
        assert shapes == [tuple(value.shape) for value in expected]
        assert json.loads(written.metadata.userDefined[KEY])["export"]["channels"] == channels
