"""Checkpoints of other ports of MobileNet, and of Keras: found by their names, and giving the publisher's logits."""

import sys

import h5py
import pytest
import timm
import torch
from torch import nn

import backbone
import seg
import tests.builders.port_networks as ports
from backbone import InputError
from tests.builders.comparing import largest_difference

DETECTION_LARGE = ports.with_tail(ports.LARGE, (672, 480, 480), 80)
DETECTION_SMALL = ports.with_tail(ports.SMALL, (288, 288, 288), 48)


def mmpretrain(rows: tuple, hidden: int, eps: float) -> nn.Module:
    return ports.NetMMPretrain(ports.BodyMMPretrainV3(rows, eps), rows[-1][1], hidden)


# name, the port's network, what is found: layout, architecture, width, tail
NETWORKS = {
    "1e100 large": (lambda: ports.Net1e100(ports.LARGE, 960), ("1e100", "mobilenet_v3_large", 1.0, "full")),
    "1e100 small": (lambda: ports.Net1e100(ports.SMALL, 576), ("1e100", "mobilenet_v3_small", 1.0, "full")),
    "1e100 large_detection": (
        lambda: ports.Net1e100(DETECTION_LARGE, 480),
        ("1e100", "mobilenet_v3_large", 1.0, "detection"),
    ),
    "1e100 small_detection": (
        lambda: ports.Net1e100(DETECTION_SMALL, 288),
        ("1e100", "mobilenet_v3_small", 1.0, "detection"),
    ),
    "d-li14 large": (
        lambda: ports.NetDLi14(ports.LARGE, 1280),
        ("d-li14", "mobilenet_v3_large_se_before_activation", 1.0, "full"),
    ),
    "d-li14 small": (
        lambda: ports.NetDLi14(ports.SMALL, 1024),
        ("d-li14", "mobilenet_v3_small_se_before_activation", 1.0, "full"),
    ),
    "Randl large": (lambda: ports.NetRandl(ports.LARGE), ("Randl", "mobilenet_v3_large_randl", 1.0, "full")),
    "mmpretrain large": (
        lambda: mmpretrain(ports.LARGE, 1280, 1e-3),
        ("mmpretrain", "mobilenet_v3_large", 1.0, "full"),
    ),
    "mmpretrain small": (
        lambda: mmpretrain(ports.SMALL, 1024, 1e-3),
        ("mmpretrain", "mobilenet_v3_small", 1.0, "full"),
    ),
    "mmpretrain small_050": (
        lambda: mmpretrain(ports.SMALL_050, 1024, 1e-5),
        ("mmpretrain", "mobilenet_v3_small", 0.5, "full"),
    ),
    "mmpretrain V2": (
        lambda: ports.NetMMPretrain(ports.BodyMMPretrainV2(), 1280, 0),
        ("mmpretrain", "mobilenet_v2", 0.5, "full"),
    ),
}


def with_small_variances(model: nn.Module) -> nn.Module:
    """So small that a wrong norm epsilon shows, with values that stay as they were."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.mul_(0.01)
            with torch.no_grad():
                module.weight.mul_(0.1)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_gives_the_ports_logits(name, randomise):
    build, expected = NETWORKS[name]
    torch.manual_seed(0)
    theirs = with_small_variances(randomise(build()))
    found = backbone.from_weights(theirs.state_dict())
    assert (found.layout, found.name, found.width, found.arguments["tail"]) == expected
    assert found.mean == (0.485, 0.456, 0.406) and found.classes == [str(number) for number in range(10)]
    assert largest_difference(found.classifier, theirs) < 1e-4


def test_a_training_checkpoint_of_several_processes_loads(tmp_path, randomise):
    theirs = randomise(ports.NetRandl(ports.LARGE))
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "best_prec1": 73.5, "optimizer": {"state": {}}, "state_dict": state}, tmp_path / "c.pth")
    assert largest_difference(backbone.from_weights(tmp_path / "c.pth").classifier, theirs) < 1e-4


@pytest.mark.parametrize("meta", ["CLASSES", "dataset_meta"])
def test_class_names_come_with_mmpretrains_checkpoints(meta, tmp_path):
    names = [f"class {number}" for number in range(10)]
    told = {"CLASSES": tuple(names)} if meta == "CLASSES" else {"dataset_meta": {"classes": names}}
    state = mmpretrain(ports.SMALL_050, 1024, 1e-5).state_dict()
    torch.save({"meta": told, "state_dict": state}, tmp_path / "c.pth")
    assert backbone.from_weights(tmp_path / "c.pth").classes == names


def test_a_bare_backbone_of_mmpretrain_loads(randomise):
    theirs = randomise(ports.BodyMMPretrainV3(ports.SMALL, 1e-3))
    net = backbone.create("mobilenet_v3_small")
    assert backbone.load_weights(net, theirs.state_dict()) == "mmpretrain"
    images = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        want, got = theirs(images), net.eval()(images)["last"]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_segmentation_form_of_1e100_is_the_detection_tail_dilated(randomise):
    theirs = randomise(ports.Net1e100(DETECTION_LARGE, 480, dilated=True))
    net = backbone.create("mobilenet_v3_large", tail="detection", output_stride=16, dilate_strided_block=True).eval()
    backbone.load_weights(net, theirs.state_dict())
    images = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        want, got = theirs.features(images), net(images)["last"]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


def test_mmsegs_backbone_is_padded_as_tensorflow_and_its_decoder_refused():
    state = {f"backbone.{key}": value for key, value in ports.BodyMMPretrainV3(ports.SMALL, 1e-3).state_dict().items()}
    state |= {"decode_head.aspp_conv.conv.weight": torch.zeros(128, 576, 1, 1)}
    assert backbone.load_weights(backbone.create("mobilenet_v3_small", padding="same"), state) == "mmseg"
    with pytest.raises(InputError, match="need padding='same'"):
        backbone.load_weights(backbone.create("mobilenet_v3_small"), state)
    with pytest.raises(InputError, match="mmseg's LR-ASPP"):
        seg.load_weights(seg.create(variant="torchvision"), state)


def test_the_place_of_squeeze_and_excite_must_be_the_weights():
    theirs = ports.NetDLi14(ports.SMALL, 1024).state_dict()
    with pytest.raises(InputError, match="build mobilenet_v3_…_se_before_activation"):
        backbone.load_weights(backbone.create("mobilenet_v3_small"), theirs)
    torchvisions = backbone.create("mobilenet_v3_small_se_before_activation")
    with pytest.raises(InputError, match="not called _se_before_activation"):
        backbone.load_weights(torchvisions, ports.Net1e100(ports.SMALL, 576).state_dict())


def test_randls_small_network_is_refused_with_the_reason():
    state = ports.NetRandl(ports.LARGE).state_dict() | {"last_block.se.linear1.weight": torch.zeros(144, 576)}
    with pytest.raises(InputError, match="squeeze-and-excite after the last convolution"):
        backbone.from_weights(state)


def norm(layer: nn.BatchNorm2d) -> dict[str, torch.Tensor]:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return dict(zip(names, (layer.weight, layer.bias, layer.running_mean, layer.running_var), strict=True))


def kernel(layer: nn.Conv2d | nn.Linear) -> dict[str, torch.Tensor]:
    """A layer's values as Keras has them: [k, k, C, C'], depthwise [k, k, C, 1], dense [C, C']."""
    if isinstance(layer, nn.Linear):
        values = {"kernel": layer.weight.T}
    elif layer.groups > 1:
        values = {"depthwise_kernel": layer.weight.permute(2, 3, 0, 1)}
    else:
        values = {"kernel": layer.weight.permute(2, 3, 1, 0)}
    return values if layer.bias is None else values | {"bias": layer.bias}


def keras_layers(model: nn.Module, *, top: bool = True) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """A timm network's layers in their order, by the names that Keras 2 has for MobileNetV3's."""
    layers = [("Conv", kernel(model.conv_stem)), ("Conv/BatchNorm", norm(model.bn1))]
    blocks = [block for stage in model.blocks for block in stage]
    last = blocks.pop() if hasattr(blocks[-1], "conv") else None
    for number, block in enumerate(blocks):
        name = f"expanded_conv_{number}" if number else "expanded_conv"
        expands = hasattr(block, "conv_pwl")
        if expands:
            layers += [(f"{name}/expand", kernel(block.conv_pw)), (f"{name}/expand/BatchNorm", norm(block.bn1))]
        depthwise_norm = block.bn2 if expands else block.bn1
        layers += [(f"{name}/depthwise/pad", {}), (f"{name}/depthwise", kernel(block.conv_dw))]
        layers.append((f"{name}/depthwise/BatchNorm", norm(depthwise_norm)))
        if not isinstance(block.se, nn.Identity):
            layers.append((f"{name}/squeeze_excite/Conv", kernel(block.se.conv_reduce)))
            layers.append((f"{name}/squeeze_excite/Conv_1", kernel(block.se.conv_expand)))
        project, project_norm = (block.conv_pwl, block.bn3) if expands else (block.conv_pw, block.bn2)
        layers += [(f"{name}/project", kernel(project)), (f"{name}/project/BatchNorm", norm(project_norm))]
    if last is not None:  # V3
        layers += [("Conv_1", kernel(last.conv)), ("Conv_1/BatchNorm", norm(last.bn1))]
        classify = {"kernel": model.classifier.weight.T[None, None], "bias": model.classifier.bias}
        return layers + ([("Conv_2", kernel(model.conv_head)), ("Logits", classify)] if top else [])
    if isinstance(model.conv_head, nn.Conv2d):  # V2
        layers += [("Conv_1", kernel(model.conv_head)), ("Conv_1_bn", norm(model.bn2))]
    return layers + ([("predictions", kernel(model.classifier))] if top else [])


def write_keras_2(path, layers, *, whole: bool = False) -> None:
    """save_weights of Keras 2; `whole`: save, which has the weights in a group beside the optimiser's."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        if whole:
            file.create_group("optimizer_weights")
        root.attrs["layer_names"] = [name.encode() for name, _ in layers]
        for name, values in layers:
            group = root.create_group(name) if name not in root else root[name]
            group.attrs["weight_names"] = [f"{name}/{value}:0".encode() for value in values]
            for value, tensor in values.items():
                group[f"{name}/{value}:0"] = tensor.detach().numpy()


def write_keras_3(path, layers) -> None:
    """save_weights of Keras 3: layers by kind, numbered."""
    counts: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for _, values in layers:
            if "gamma" in values:
                kind = "batch_normalization"
            elif "depthwise_kernel" in values:
                kind = "depthwise_conv2d"
            elif values:
                kind = "conv2d" if values["kernel"].ndim == 4 else "dense"
            else:
                kind = "zero_padding2d"
            number = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{kind}_{number}/vars" if number else f"layers/{kind}/vars")
            for index, tensor in enumerate(values.values()):
                group[str(index)] = tensor.detach().numpy()


# timm's twin with TensorFlow's padding and epsilon, ours, width
KERAS = [
    ("tf_mobilenetv3_large_100", "mobilenet_v3_large", 1.0),
    ("tf_mobilenetv3_large_075", "mobilenet_v3_large", 0.75),
    ("tf_mobilenetv3_large_minimal_100", "mobilenet_v3_large_minimalistic", 1.0),
    ("tf_mobilenetv3_small_100", "mobilenet_v3_small", 1.0),
    ("tf_mobilenetv3_small_minimal_100", "mobilenet_v3_small_minimalistic", 1.0),
    ("mobilenetv2_035", "mobilenet_v2", 0.35),
    ("mobilenetv1_100", "mobilenet_v1", 1.0),
]


@pytest.mark.parametrize("case", KERAS, ids=lambda case: case[0])
def test_keras_files_of_every_generation_give_the_logits(case, tmp_path, randomise):
    twin, name, width = case
    theirs = randomise(timm.create_model(twin, num_classes=10, pad_type="same", bn_eps=1e-3))
    layers = keras_layers(theirs)
    write_keras_2(tmp_path / "weights.h5", layers)
    write_keras_2(tmp_path / "whole.hdf5", layers, whole=True)
    write_keras_3(tmp_path / "model.weights.h5", layers)
    states = []
    for file in ("weights.h5", "whole.hdf5", "model.weights.h5"):
        found = backbone.from_weights(tmp_path / file)
        assert (found.layout, found.name, found.width, found.mean) == ("keras", name, width, (0.5, 0.5, 0.5))
        assert found.classifier.backbone.padding == "same" and found.classifier.backbone.stem.norm.eps == 1e-3
        states.append(found.classifier.state_dict())
    assert largest_difference(found.classifier, theirs) < 1e-4
    assert all(torch.equal(value, state[key]) for state in states for key, value in states[0].items())


def test_keras_weights_without_a_top_load_into_a_body_of_their_padding(tmp_path, randomise):
    theirs = randomise(timm.create_model("tf_mobilenetv3_small_075", num_classes=10))
    write_keras_2(tmp_path / "no_top.h5", keras_layers(theirs, top=False))
    net = backbone.create("mobilenet_v3_small", width=0.75, padding="same").eval()
    assert backbone.load_weights(net, tmp_path / "no_top.h5") == "keras"
    images = torch.randn(1, 3, 97, 129)
    with torch.no_grad():
        torch.testing.assert_close(net(images)["last"], theirs.forward_features(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="has no output layer"):
        backbone.from_weights(tmp_path / "no_top.h5")
    with pytest.raises(InputError, match="need padding='same'"):
        backbone.load_weights(backbone.create("mobilenet_v3_small", width=0.75), tmp_path / "no_top.h5")


def test_other_hdf5_files_are_errors_that_name_them(tmp_path, monkeypatch):
    layers = keras_layers(timm.create_model("tf_mobilenetv3_small_075", num_classes=10))
    write_keras_2(tmp_path / "more.h5", [*layers, ("extra", layers[0][1]), ("extra_bn", layers[1][1])])
    with pytest.raises(InputError, match=r"more\.h5: Keras' layers, but"):
        backbone.from_weights(tmp_path / "more.h5")
    write_keras_2(tmp_path / "fewer.h5", layers[:7])
    with pytest.raises(InputError, match=r"fewer\.h5: Keras' layers, but not those"):
        backbone.from_weights(tmp_path / "fewer.h5")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(InputError, match=r"data\.h5: an HDF5 file without Keras' layers"):
        backbone.from_weights(tmp_path / "data.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(InputError, match=r"text\.h5: cannot be read as weights"):
        backbone.from_weights(tmp_path / "text.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="need h5py"):
        backbone.from_weights(tmp_path / "data.h5")
