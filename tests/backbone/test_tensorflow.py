"""TensorFlow's checkpoints: read without it; slim's classifiers and DeepLab's LR-ASPP equal the official graphs."""

import base64
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import backbone
import seg
import tests.builders.port_networks as ports
from backbone import InputError
from backbone.weights.tensorflow_checkpoint import prefix, read
from seg.data import cityscapes
from seg.heads import lraspp as heads
from tests.builders.tensorflow_files import SEGMENTATION_LARGE, SEGMENTERS, Tensors, deeplab, write_checkpoint
from tools import predict
from tools.converters.weights import recognise
from tools.io.model_file import load_initial_weights, save_model

# A checkpoint that TensorFlow 2.21 wrote: Net/Conv/weights [2, 2, 2, 2] of 0 to 15, its average of the negatives, its
# Momentum, Net/depthwise/depthwise_weights [1, 2, 3, 2] of 0 to 11, Net/Conv/BatchNorm/gamma (1.5, -2), global_step.
INDEX = """
eNpjYGDjYJRi4mBkkOD3Sy3Rd87PK9N3SixJzvDLL8rVT0/MzU3kYBRiEWLiYNLgMLU1PvGFk122PDUzPaOkGCghAJJAxgocGg6mHx0SNQUkZfVdKwry
81LzSjITc3zzyzLz0h3LUosS01OxavQAaqzdNktHkEPONz8XqKs0F6u6DkagwvSsRftYpOVSUgtKMsozi1P14ax4VMcxQvUxg/WeYNQwML2+LPQOAzdf
ek5+UmJOfHFJagEHpxCDwg9GoAc//YueywAEjCBimvNTJjjnwKeFGxgYmTMY5iDEkhLnJC9k4ljHxM9AEIT/buhWKXW/DQASXU4U"""
DATA = """
eNqlzkERwCAMRNGtg0pAQA84aHCABCRUAlJw0uAEKf0UBZ1m8mZy2SSSn5Jcb9U5G42KBseAkrQjIMKQUXClGabvtctQ0eAYc38nj4AIQ0bB1dftP779
f2wr8QA2uy6O"""

MINIMALISTIC = tuple((3, expanded, out, 0, 0, stride) for _, expanded, out, _, _, stride in ports.SMALL)
CLASSIFIERS = {  # rows, last, hidden, outputs
    "mobilenet_v3_large": (ports.LARGE, 960, 1280, 1001),
    "mobilenet_v3_small": (ports.SMALL, 576, 1024, 7),
    "mobilenet_v3_small_minimalistic": (MINIMALISTIC, 576, 1024, 1001),
}


def classifier(name: str) -> Tensors:
    rows, last, hidden, outputs = CLASSIFIERS[name]
    tensors = Tensors()
    tensors.body(rows, last)
    tensors.classifier(last, hidden, outputs)
    return tensors


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference by the largest value; the official gates' 0.16667 for a sixth makes 1e-4."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture
def checkpoint(tmp_path):
    """The path that the names of TensorFlow's own files begin with."""
    for ending, text in (("index", INDEX), ("data-00000-of-00001", DATA)):
        (tmp_path / f"model.ckpt.{ending}").write_bytes(zlib.decompress(base64.b64decode(text)))
    return tmp_path / "model.ckpt"


@pytest.fixture
def small(tmp_path):
    tensors = deeplab("mobilenet_v3_small")
    return tensors, write_checkpoint(tmp_path / "model.ckpt", tensors)


def test_what_tensorflow_wrote_is_read_in_torchs_order(checkpoint):
    state = backbone.read_weights(checkpoint)
    assert set(state) == {"Net/Conv/weights", "Net/Conv/BatchNorm/gamma", "Net/depthwise/depthwise_weights"}
    average = -np.arange(16.0).reshape(2, 2, 2, 2)
    assert np.array_equal(state["Net/Conv/weights"], average.transpose(3, 2, 0, 1))
    depthwise = np.arange(12.0).reshape(1, 2, 6)  # the multiplier lies within the channel
    assert np.array_equal(state["Net/depthwise/depthwise_weights"][:, 0], depthwise.transpose(2, 0, 1))
    assert state["Net/Conv/BatchNorm/gamma"].tolist() == [1.5, -2.0]


def test_any_of_a_checkpoints_files_names_it(checkpoint):
    for path in (checkpoint, f"{checkpoint}.index", f"{checkpoint}.data-00000-of-00001"):
        assert len(backbone.read_weights(path)) == 3
    assert prefix(checkpoint.parent / "other.index") is None


def test_an_index_of_many_blocks_is_read(tmp_path):
    values = {f"layer_{number}/biases": np.float32([number, -number]) for number in range(250)}
    write_checkpoint(tmp_path / "m", values, names_per_block=7)
    assert {name: value.tolist() for name, value in read(tmp_path / "m").items()} == {
        name: value.tolist() for name, value in values.items()
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("frozen_inference_graph.pb", "a TensorFlow graph; give the checkpoint beside it"),
        ("v3-small_224_1.0_float.tgz", "an archive; unpack it"),
        (".", "a folder; give a file in it, as model.ckpt.index"),
        ("moved.data-00000-of-00001", "the checkpoint's .index is missing"),
        ("none", "no such weights file"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_what_to_give(checkpoint, name, message):
    with pytest.raises(InputError, match=message):
        backbone.read_weights(checkpoint.parent / name)


def test_damaged_checkpoints_are_named(checkpoint):
    data, index = (checkpoint.parent / f"model.ckpt.{ending}" for ending in ("data-00000-of-00001", "index"))
    whole = data.read_bytes()
    data.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="ends before Net/"):
        backbone.read_weights(index)
    data.unlink()
    with pytest.raises(InputError, match="data-00000-of-00001 is missing"):
        backbone.read_weights(index)
    data.write_bytes(whole)
    index.write_bytes(index.read_bytes()[:-60])
    with pytest.raises(InputError, match="cannot be read as weights"):
        backbone.read_weights(index)


@pytest.mark.parametrize("size", [96, 97])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_slims_classifiers_give_the_official_graphs_logits(name, size, tmp_path):
    tensors = classifier(name)
    found = backbone.from_weights(write_checkpoint(tmp_path / "model.ckpt-9", tensors))
    assert (found.layout, found.name, found.width, found.mean) == ("slim", name, 1.0, (0.5,) * 3)
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = tensors.logits(CLASSIFIERS[name][0], images)
        if expected.shape[1] == 1001:  # without ImageNet's background
            expected = expected[:, 1:]
        assert relative_difference(found.classifier.eval()(images), expected) < 1e-5
    assert len(found.classes) == expected.shape[1]


def test_slims_files_of_other_things_are_refused(tmp_path):
    tensors = classifier("mobilenet_v3_small")
    tensors.put("MobilenetV3/Conv/weights_quant/min", np.zeros(()))
    with pytest.raises(InputError, match="simulated quantisation"):
        backbone.from_weights(write_checkpoint(tmp_path / "quantised", tensors))
    del tensors["MobilenetV3/Conv/weights_quant/min"]
    tensors.put("MobilenetV3/expanded_conv_2/unknown/weights", np.zeros((1, 1, 2, 2)))
    with pytest.raises(InputError, match=r"1 unexpected \(MobilenetV3/expanded_conv_2/unknown"):
        backbone.from_weights(write_checkpoint(tmp_path / "more", tensors))


@pytest.mark.parametrize(
    ("name", "size"),
    [("mobilenet_v3_small", (161, 193)), ("mobilenet_v3_small", (33, 65)), ("mobilenet_v3_large", (97, 161))],
)
def test_deeplabs_lraspp_gives_the_official_graphs_logits(name, size, tmp_path, monkeypatch):
    monkeypatch.setitem(heads.POOLING, 32, (2, (1, 2)))  # 25 and (4, 5) would need images of 929 pixels
    tensors = deeplab(name)
    found = seg.from_weights(write_checkpoint(tmp_path / "model.ckpt", tensors))
    assert (found.layout, found.mean, found.arguments["backbone"]) == ("deeplab", (0.5,) * 3, name)
    rows, _, low, _ = SEGMENTERS[name]
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = tensors.segment(rows, low, images, window=2, step=(1, 2))
        assert relative_difference(found.model.eval()(images), expected) < 1e-5


def test_the_published_pooling_is_built(small):
    assert seg.from_weights(small[1]).model.head.window == (25, (4, 5))


def test_other_sizes_are_padded_to_corners_with_the_mean(small):
    """As DeepLab pads Cityscapes' 1024x2048 to 1025x2049."""
    model = seg.from_weights(small[1]).model.eval()
    images = torch.randn(1, 3, 64, 90)
    with torch.no_grad():
        logits = model(images)
        padded = model(F.pad(images, (0, 97 - 90, 0, 65 - 64)))
        assert logits.shape == (1, 19, 64, 90) and torch.equal(logits, padded[..., :64, :90])
        assert torch.equal(seg.upsample(logits, (64, 90)), logits)
        assert torch.equal(seg.label_map(logits, (64, 90)), logits.argmax(1))
        assert model(torch.randn(1, 3, 1, 1)).shape == (1, 19, 1, 1)


@pytest.mark.parametrize("size", [(64, 96), (63, 94)])
def test_a_segmenters_padding_is_tensorflows(size, tmp_path):
    """At sizes of k strides + 1 pixels the two paddings agree, so these are others. The last blocks are dilated."""
    tensors = deeplab("mobilenet_v3_large")
    weights = seg.from_weights(write_checkpoint(tmp_path / "model.ckpt", tensors)).model.backbone.state_dict()
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = tensors.features(SEGMENTATION_LARGE, images, output_stride=16)[0]
        for padding, equal in (("same", True), ("symmetric", False)):
            model = seg.create(padding=padding).eval()
            model.backbone.load_state_dict(weights)
            assert (relative_difference(model.backbone(images)["last"], expected) < 1e-5) == equal
            assert model(images).shape == (1, 19, 8, 12)


def test_a_corner_aligned_model_exports(small):
    model = seg.from_weights(small[1]).model.eval()
    images = torch.randn(1, 3, 64, 90)
    with torch.no_grad():
        logits = model(images)
        exported = torch.export.export(model, (images,), strict=True).module()
        torch.testing.assert_close(exported(images), logits, rtol=1e-4, atol=1e-5)


def test_a_converted_deeplab_predicts_cityscapes_classes(small, tmp_path):
    found = recognise(small[1])
    assert found.description["classes"] == cityscapes.NAMES and found.layout == "deeplab"
    save_model(tmp_path / "lraspp.safetensors", found.model, found.description)
    frame = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    images = torch.from_numpy(frame[..., ::-1] / np.float32(127.5) - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = found.model.eval()(images).argmax(1)[0]
    labels = predict.load(tmp_path / "lraspp.safetensors")(frame).labels
    assert (labels != expected.numpy()).sum() <= 7  # of 7000: rounding, where two classes are equal
    with pytest.raises(InputError, match="taproot's weights need align_corners=True"):
        seg.load_weights(
            seg.create(backbone="mobilenet_v3_small", output_stride=32, padding="same"), tmp_path / "lraspp.safetensors"
        )


def test_a_training_starts_from_deeplab_as_a_whole_or_as_a_backbone(small):
    path = str(small[1])
    same = {"backbone": "mobilenet_v3_small", "output_stride": 32, "padding": "same", "align_corners": True}
    assert "whole model, deeplab" in load_initial_weights(seg.create(**same), path, seg.load_weights)
    for key in ("padding", "align_corners"):
        unlike = {name: value for name, value in same.items() if name != key}
        with pytest.raises(InputError, match=f"deeplab's weights need {key}={same[key]!r}, the model has"):
            seg.load_weights(seg.create(**unlike), path)
    body = backbone.create("mobilenet_v3_small", tail="segmentation", padding="same")
    assert backbone.load_weights(body, path) == "slim"


def test_tensors_that_do_not_fit_are_named(small):
    state = backbone.read_weights(small[1])
    left = {**state, "aspp1/weights": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 unexpected \(aspp1/weights\)"):
        seg.from_weights(left)
    missing = {name: value for name, value in state.items() if name != "decoder/feature_projection0/biases"}
    with pytest.raises(InputError, match=r"1 missing \(head.classify_low.bias\)"):
        seg.from_weights(missing)
    misshapen = state | {"MobilenetV3/Conv/weights": torch.zeros(24, 3, 3, 3)}
    with pytest.raises(InputError, match=r"of another shape \(backbone.stem.conv.weight"):
        seg.from_weights(misshapen)
    other = {name: value for name, value in state.items() if not name.startswith("image_pooling/")}
    with pytest.raises(InputError, match="not its LR-ASPP on MobileNetV3"):
        seg.from_weights(other)


def test_corners_are_for_lraspp_only():
    with pytest.raises(InputError, match="align_corners does not fit head 'unet'"):
        seg.create("unet", align_corners=True)
    with pytest.raises(InputError, match="padding 'valid' unknown"):
        seg.create(padding="valid")
