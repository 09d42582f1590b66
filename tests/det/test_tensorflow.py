"""SSDLite checkpoints of TensorFlow's object-detection API: its graph, written anew with its names, is the judge."""

from typing import NamedTuple

import numpy as np
import pytest
import timm.layers
import torch
from torch import Tensor
from torch.nn import functional as F

import backbone
import det
from backbone import InputError
from det.weights import UNUSED_IDS
from tests.builders.port_networks import LARGE, SMALL, squeezed, with_tail
from tests.builders.tensorflow_files import write_checkpoint
from tools import convert_weights, predict
from tools.io.model_file import load_description


class Design(NamedTuple):
    """What the API's graphs differ in."""

    scope: str
    stem: int
    rows: tuple  # as `port_networks` has them
    tapped: int  # the row whose expansion is C4
    last: int
    activations: tuple  # of rows without and with hard swish
    side: int  # of the inputs of the released detector


def v2_rows() -> tuple:
    rows, channels = [(3, 32, 16, 0, 0, 1)], 16
    for out, repeats, stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)):
        for repeat in range(repeats):
            rows.append((3, 6 * channels, out, 0, 0, 1 if repeat else stride))
            channels = out
    return tuple(rows)


V3 = (F.relu, F.hardswish)
DESIGNS = {
    "mobilenet_v2": Design("MobilenetV2", 32, v2_rows(), 13, 1280, (F.relu6, F.relu6), 300),
    "mobilenet_v3_large": Design("MobilenetV3", 16, with_tail(LARGE, (672, 480, 480), 80), 12, 480, V3, 320),
    "mobilenet_v3_small": Design("MobilenetV3", 16, with_tail(SMALL, (288, 288, 288), 48), 8, 288, V3, 320),
}
COCO = 91  # outputs per anchor, of which the first is the background's


class Graph:
    """Computes layers as slim does, from variables of its names, which come into being when a layer is first used."""

    def __init__(self) -> None:
        self.variables: dict[str, Tensor] = {}  # by TensorFlow's names, axes in torch's order
        self.random = torch.Generator().manual_seed(0)

    def variable(self, name: str, *shape: int, mean: float = 0.0, std: float) -> Tensor:
        if name not in self.variables:
            self.variables[name] = mean + std * torch.randn(shape, generator=self.random)
        return self.variables[name]

    def layer(self, name, x, out=None, kernel=1, stride=1, activation=F.relu6, norm=True, gain=2.0) -> Tensor:
        """slim.conv2d; without `out` the depthwise slim.separable_conv2d."""
        groups, values = (1, "weights") if out else (x.shape[1], "depthwise_weights")
        out = out or x.shape[1]
        shape = (out, x.shape[1] // groups, kernel, kernel)
        weight = self.variable(f"{name}/{values}", *shape, std=(gain / (shape[1] * kernel**2)) ** 0.5)
        bias = None if norm else self.variable(f"{name}/biases", out, std=0.5)
        x = F.conv2d(timm.layers.pad_same(x, (kernel, kernel), (stride, stride)), weight, bias, stride, groups=groups)
        if norm:
            gamma, beta, mean = (
                self.variable(f"{name}/BatchNorm/{value}", out, mean=about, std=0.1)
                for value, about in (("gamma", 1), ("beta", 0), ("moving_mean", 0))
            )
            variance = self.variable(f"{name}/BatchNorm/moving_variance", out, mean=1, std=0.1)
            x = F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)
        return activation(x)

    def squeeze_excite(self, name: str, x: Tensor) -> Tensor:
        # Small weights: a gate that hangs on its input doubles relative errors of rounding, and up to nine follow.
        gate = {"norm": False, "gain": 0.02}
        few = self.layer(f"{name}/Conv", x.mean((2, 3), keepdim=True), squeezed(x.shape[1]), activation=F.relu, **gate)
        return x * self.layer(f"{name}/Conv_1", few, x.shape[1], activation=slims_gate, **gate)


def slims_gate(x: Tensor) -> Tensor:
    return F.relu6(x + 3) * 0.16667


def linear(x: Tensor) -> Tensor:
    return x


def official(graph: Graph, name: str, images: Tensor, num_outputs: int) -> tuple[Tensor, Tensor]:
    """Class logits `[N, A, num_outputs]` and box encodings `[N, A, 4]` (y, x, height, width) of the API's graph."""
    design = DESIGNS[name]
    scope = f"FeatureExtractor/{design.scope}"
    x = graph.layer(f"{scope}/Conv", images, design.stem, 3, 2, design.activations[1])
    maps = []
    for number, (kernel, wide, out, squeeze, swish, stride) in enumerate(design.rows):
        block = f"{scope}/expanded_conv" + (f"_{number}" if number else "")
        activation = design.activations[swish]
        y = x if wide == x.shape[1] else graph.layer(f"{block}/expand", x, wide, activation=activation)
        if number == design.tapped:
            maps.append(y)
        y = graph.layer(f"{block}/depthwise", y, None, kernel, stride, activation)
        if squeeze:
            y = graph.squeeze_excite(f"{block}/squeeze_excite", y)
        y = graph.layer(f"{block}/project", y, out, activation=linear)
        x = x + y if stride == 1 and out == x.shape[1] else y
    maps.append(graph.layer(f"{scope}/Conv_1", x, design.last, activation=design.activations[1]))
    from_layer = f"{scope}/layer_{len(design.rows) + 2}"
    for number, depth in enumerate((512, 256, 256, 128), start=2):
        x = graph.layer(f"{from_layer}_1_Conv2d_{number}_1x1_{depth // 2}", maps[-1], depth // 2)
        strided = f"{from_layer}_2_Conv2d_{number}_3x3_s2_{depth}"
        maps.append(graph.layer(strided, graph.layer(f"{strided}_depthwise", x, None, 3, 2), depth))
    predicted = {"ClassPredictor": [], "BoxEncodingPredictor": []}
    for number, x in enumerate(maps):
        for head, values in (("BoxEncodingPredictor", 4), ("ClassPredictor", num_outputs)):
            predictor = f"BoxPredictor_{number}/{head}"
            y = graph.layer(f"{predictor}_depthwise", x, None, 3)
            y = graph.layer(predictor, y, (6 if number else 3) * values, activation=linear, norm=False)
            predicted[head].append(y.permute(0, 2, 3, 1).reshape(len(x), -1, values))
    return torch.cat(predicted["ClassPredictor"], 1), torch.cat(predicted["BoxEncodingPredictor"], 1)


@pytest.fixture(scope="module", params=sorted(DESIGNS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def graph(name) -> Graph:
    """The API's detector with the variables of COCO's checkpoint."""
    graph = Graph()
    official(graph, name, torch.zeros(1, 3, 64, 64), COCO)
    return graph


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("image_size_hw", [(320, 320), (97, 131)])
@torch.no_grad()
def test_gives_the_apis_numbers(name, graph, image_size_hw):
    found = det.from_weights(graph.variables)
    assert (found.layout, found.score, found.mean, found.std) == ("tensorflow", "sigmoid", (0.5,) * 3, (0.5,) * 3)
    assert (found.model.backbone.name, found.model.backbone.padding) == (name, "same")
    assert (found.model.num_objects, found.model.background, found.nms_iou) == (90, False, 0.6)
    assert found.model.image_size_hw == (DESIGNS[name].side,) * 2
    images = torch.randn(2, 3, *image_size_hw)
    logits, encodings = official(graph, name, images, COCO)
    raw = found.model.eval()(images)
    assert_close(raw.class_logits, logits[..., 1:])
    assert_close(raw.box_offsets, encodings[..., [1, 0, 3, 2]])


@torch.no_grad()
def test_the_80_real_categories_keep_their_scores(name, graph):
    whole = det.from_weights(graph.variables).model.eval()
    cut = det.create(backbone=name, num_classes=80, padding="same").eval()
    assert det.load_weights(cut, graph.variables) == "tensorflow"
    images = torch.randn(1, 3, 64, 64)
    used = [category_id - 1 for category_id in range(1, 91) if category_id not in UNUSED_IDS]
    torch.testing.assert_close(cut(images).class_logits, whole(images).class_logits[..., used])
    assert torch.equal(cut(images).box_offsets, whole(images).box_offsets)


@torch.no_grad()
def test_a_detector_of_ones_own_classes_tells_their_number():
    graph = Graph()
    images = torch.randn(1, 3, 96, 96)
    logits, _ = official(graph, "mobilenet_v3_small", images, num_outputs=6)
    found = det.from_weights(graph.variables)
    assert found.model.num_objects == found.arguments["num_classes"] == 5
    assert_close(found.model.eval()(images).class_logits, logits[..., 1:])


@torch.no_grad()
def test_it_becomes_a_file_for_predicting(name, graph, tmp_path):
    values = {"global_step": np.int64(400000)}
    for variable, tensor in graph.variables.items():
        depthwise = variable.endswith("depthwise_weights")
        stored = (
            (tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(2, 3, 1, 0)) if tensor.ndim == 4 else tensor
        )
        values |= {variable: stored.numpy(), f"{variable}/Momentum": np.zeros(1, np.float32)}
    index = write_checkpoint(tmp_path / "model.ckpt", values)
    convert_weights.main([str(index), str(tmp_path / "w.safetensors")])
    description = load_description(tmp_path / "w.safetensors")
    assert (description["classes"][0], description["classes"][11], description["classes"][89]) == (
        "person",
        "12",
        "toothbrush",
    )
    assert description["category_ids"] == list(range(1, 91))
    predictor = predict.load(tmp_path / "w.safetensors", device="cpu", score_threshold=0.5)
    assert (predictor.postprocess.kind, predictor.postprocess.nms_iou) == ("sigmoid", 0.6)
    side = DESIGNS[name].side
    frame_bgr = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    images = torch.from_numpy(frame_bgr[..., ::-1].copy()).permute(2, 0, 1)[None] * (2 / 255) - 1
    logits, encodings = official(graph, name, images, COCO)
    raw = predictor.network(predictor.prepare(frame_bgr))
    assert_close(raw.class_logits, logits[..., 1:])
    assert_close(raw.box_offsets, encodings[..., [1, 0, 3, 2]])
    best = logits[..., 1:].sigmoid().max().item()
    assert predictor(frame_bgr).scores[0] == pytest.approx(best, abs=1e-4)


@torch.no_grad()
def test_its_backbone_loads_alone(name, graph):
    taps = det.from_weights(graph.variables).model.taps
    tail = "full" if name == "mobilenet_v2" else "detection"
    body = backbone.create(name, tail=tail, padding="same", taps=taps).eval()
    assert backbone.load_weights(body, graph.variables) == "slim"
    whole = det.from_weights(graph.variables).model.backbone.eval()
    images = torch.randn(1, 3, 64, 64)
    for mine, their in zip(body(images).values(), whole(images).values(), strict=True):
        torch.testing.assert_close(mine, their)


@pytest.mark.parametrize(
    "name, shape, message",  # of a variable that is changed; without a shape it is left out
    [
        ("BoxPredictor_3/ClassPredictor_depthwise/BatchNorm/beta", None, "missing (head.class_predictors.3"),
        ("BoxPredictor_2/BoxEncodingPredictor/weights", None, "missing (head.box_predictors.2"),
        ("FeatureExtractor/MobilenetV3/fpn/weights", (1,), "unexpected (FeatureExtractor"),
        ("BoxPredictor_6/ClassPredictor/biases", (1,), "unexpected (head"),
        ("BoxPredictor_1/ClassPredictor/biases", (60,), "of another shape"),
        ("BoxPredictor_1/ClassPredictor/biases", (7,), "bias [7] for [12]"),
        ("BoxPredictor_1/BoxEncodingPredictor/weights", (23, 288, 1, 1), "weight [23, 288, 1, 1] for [24"),
        ("BoxPredictor_0/BoxEncodingPredictor/biases", None, "not SSDLite on MobileNetV2"),
        ("FeatureExtractor/MobilenetV3/Conv_1/weights", (360, 60, 1, 1), "360 channels in C5"),
    ],
)
def test_what_does_not_fit_is_named(name, shape, message):
    graph = Graph()
    official(graph, "mobilenet_v3_small", torch.zeros(1, 3, 64, 64), num_outputs=3)
    if shape is None:
        del graph.variables[name]
    else:
        graph.variables[name] = torch.zeros(shape)
    with pytest.raises(InputError) as refused:
        det.from_weights(graph.variables)
    assert message in str(refused.value)


def test_a_model_that_pads_otherwise_is_refused(graph, name):
    with pytest.raises(InputError, match="tensorflow's weights need padding='same'"):
        det.load_weights(det.create(backbone=name, num_classes=90), graph.variables)
