"""Paddle's files: read without running anything in them, and PaddleClas' MobileNetV3 in our networks."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import backbone
from backbone import InputError
from backbone.blocks import SqueezeExcite
from backbone.weights import names, paddle
from backbone.weights.publishers import paddle_files
from tests.builders import loopback
from tests.builders.comparing import largest_difference
from tests.builders.port_networks import PaddleGate

PARTS = {"expand": "expand_conv", "depthwise": "bottleneck_conv", "project": "linear_conv"}
VALUES = {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"}


def paddles(model: backbone.Classifier) -> dict[str, np.ndarray]:
    """A classifier's values as PaddleClas names and lays them out, with Paddle's table of its own names."""
    state = {key.removeprefix("backbone."): value.numpy() for key, value in model.state_dict().items()}
    found = {"last_conv.weight": state["hidden.weight"][:, :, None, None]}
    found |= {"fc.weight": state["output.weight"].T, "fc.bias": state["output.bias"]}

    def conv_bn(ours: str, theirs: str) -> None:
        found[f"{theirs}.conv.weight"] = state[f"{ours}.conv.weight"]
        found.update({f"{theirs}.bn.{name}": state[f"{ours}.norm.{value}"] for value, name in VALUES.items()})

    conv_bn("stem", "conv")
    conv_bn("last", "last_second_conv")
    for number in model.backbone.blocks:
        theirs = f"blocks.{int(number) - 1}"
        for part, layer in PARTS.items():
            conv_bn(f"blocks.{number}.{part}", f"{theirs}.{layer}")
        for part, layer in (("reduce", "conv1"), ("expand", "conv2")):
            for value in ("weight", "bias"):
                key = f"blocks.{number}.squeeze_excite.{part}.{value}"
                if key in state:
                    found[f"{theirs}.mid_se.{layer}.{value}"] = state[key]
    return found | {"StructuredToParameterName@@": {name: f"parameter_{name}" for name in found}}


def network(name: str, randomise) -> backbone.Classifier:
    """A network that computes as Paddle does, with random weights."""
    model = randomise(backbone.classifier(name, num_classes=5, norm_eps=1e-5, padding="symmetric"))
    nn.init.zeros_(model.hidden.bias)
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            module.gate = PaddleGate()
            nn.init.normal_(module.expand.weight, std=0.5)
            nn.init.normal_(module.expand.bias)
    return model


class Scaled(nn.Module):
    """Paddle's dropout in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.8 * x


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("name", ["mobilenet_v3_large_randl", "mobilenet_v3_small_paddle"])
def test_paddleclas_networks_give_their_logits(name, protocol, tmp_path, randomise):
    theirs = network(name, randomise)
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps(paddles(theirs), protocol=protocol))
    theirs.dropout = Scaled()
    found = backbone.from_weights(path)
    assert (found.name, found.layout, found.size, found.mean[0]) == (name, "paddle", 224, 0.485)
    assert largest_difference(found.classifier, theirs) < 1e-5


def test_arrays_of_every_kind_and_order_are_read(tmp_path):
    values = {
        "half": np.arange(3, dtype=np.float16),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "whole": np.arange(4),
        "scalar": np.array(7, np.int32),
    }
    for table in (values, collections.OrderedDict(values)):
        (tmp_path / "x.pdparams").write_bytes(pickle.dumps(table, protocol=2))
        read = paddle.read(tmp_path / "x.pdparams")
        assert {name: value.numpy().tolist() for name, value in read.items()} == {
            name: value.tolist() for name, value in values.items()
        }
        assert read["half"].dtype == torch.float16 and read["fortran"].shape == (2, 3)


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("made",)


ARRAY = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": Evil()}, r"mentions (posix|nt)\.mkdir, which arrays do not need; give a \.pdparams of arrays alone"),
        ({"a": np.array([Evil()], dtype=object)}, "an array of type 'O8'"),
        ({"a": np.array(["text"])}, "an array of type 'U4'"),
        ({"a": ARRAY.astype(">f4")}, "byte order '>'"),
        ({"a": [1, 2]}, r"instruction b'\]'"),
        ({"a": 1}, "a is no array of numbers"),
        ({1: ARRAY}, "1 is no array of numbers"),
        (ARRAY, "holds no table of arrays"),
        ({"a": {"b": ARRAY}}, "a is no array of numbers"),
    ],
)
def test_all_else_is_refused_and_nothing_is_run(value, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 4):
        (tmp_path / "x.pdparams").write_bytes(pickle.dumps(value, protocol=protocol))
        with pytest.raises(InputError, match=message) as caught:
            backbone.read_weights(tmp_path / "x.pdparams")
        assert str(caught.value).startswith(f"{tmp_path / 'x.pdparams'}: ") and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["x.pdparams"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no pickle",
        b".",
        b"h\x07.",  # what was never stored
        b"u.",  # no mark
        b"cnumpy\nndarray\n)R.",  # a call of the class
        b"cnumpy\ndtype\n)R.",  # a call without its argument
        b"X\xff\xff\xff\xff.",  # a text longer than the file
        b"}}}s.",  # an unhashable key
        b"Nb.",
        *(pickle.dumps({"a": ARRAY}, protocol=4)[:length] for length in (20, 60, 120)),
    ],
)
def test_damaged_files_are_one_line(body, tmp_path):
    (tmp_path / "x.pdparams").write_bytes(body)
    with pytest.raises(InputError) as caught:
        backbone.read_weights(tmp_path / "x.pdparams")
    assert str(caught.value).startswith(f"{tmp_path / 'x.pdparams'}: ") and "\n" not in str(caught.value)


def test_paddles_files_come_by_name_and_must_stay_the_same(tmp_path, monkeypatch):
    name = "paddle/mobilenet_v3_small_ssld"
    loopback.only_loopback(monkeypatch)
    monkeypatch.setenv("TAPROOT_CACHE", str(tmp_path))
    with loopback.serve() as server:
        monkeypatch.setitem(paddle_files.ADDRESSES, name, f"{server.address}/small.pdparams")
        server.routes["/small.pdparams"] = loopback.whole(pickle.dumps({"a": ARRAY}, protocol=4))
        assert backbone.read_weights(name)["a"].tolist() == [0, 0]
        path = names.resolve(name)
        assert path == tmp_path / "paddle" / "small.pdparams" and server.asked["/small.pdparams"] == 1
        path.unlink()
        server.routes["/small.pdparams"] = loopback.whole(b"something else")
        with pytest.raises(InputError, match=r"SHA-256 of small\.pdparams is .* when it was first fetched"):
            names.resolve(name)
        assert os.listdir(path.parent) == ["small.pdparams.sha256"]
    with pytest.raises(InputError, match=r"no such file of Paddle's; valid: paddle/mobilenet_v3_large_ssld"):
        names.resolve("paddle/unknown")
