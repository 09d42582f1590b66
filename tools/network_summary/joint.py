"""A joint network's parts: parameters, multiply-adds and taps, and what they save beside a model for each head."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import det
from backbone.errors import InputError
from tools.io.console import console, table
from tools.io.model_file import build, load_description
from tools.joint.network import JointNetwork, create
from tools.joint.weights import CREATE
from tools.network_summary.counts import count_macs
from tools.options import JOINT


def read_outline(path: Path) -> JointNetwork:
    """The network that a joint network's file describes, without its weights.

    Raises:
        InputError: the file is missing, damaged, or of another task.
    """
    description = load_description(path)
    if description["task"] != JOINT:
        raise InputError(f"{path}: is a model for {description['task']}, not a joint network; give a network's name")
    with torch.device("meta"):
        return build(create, path, description)


def make_outline(
    name: str, heads: Sequence[str], *, width: float, tail: str | None, output_stride: int | None, padding: str
) -> JointNetwork:
    """A network with these heads, named as they are, without weights.

    Raises:
        InputError: what `tools.joint.network.create` raises.
    """
    tables = {
        head: {"head": head, "task": "detection" if head in det.options.HEADS else "segmentation"} for head in heads
    }
    with torch.device("meta"):
        return create(name, heads=tables, width=width, tail=tail, output_stride=output_stride, padding=padding)


def describe_joint(network: JointNetwork, size_hw: tuple[int, int] | None) -> None:
    """Prints a network's parts, and its totals beside those of models with one head each and the same layers.

    Arguments:
        network: on the meta device.
        size_hw: (height, width) of the input in pixels; None: that of the first head that detects.

    Raises:
        InputError: no head detects and there is no size, or it does not suit the heads.
    """
    singles = {name: network.single(name) for name in network.tasks}
    size_hw = size_hw or next((one.image_size_hw for one in singles.values() if isinstance(one, det.Detector)), None)
    if size_hw is None:
        raise InputError("--size: is missing, as no head detects and has a size of its own; give HEIGHT WIDTH")
    total, body = _size(network, size_hw), _size(network.backbone, size_hw)
    alone = []
    rows = [["backbone", *_shown(body), ""]]
    with torch.device("meta"):
        for name, one in singles.items():
            whole = _size(one, size_hw)
            own = (whole[0] - body[0], whole[1] - body[1])
            keywords = network.arguments[name]
            alone.append(_size(CREATE[network.tasks[name]](**keywords), size_hw))
            head = keywords["head"]
            rows.append([head if name == head else f"{name}: {head}", *_shown(own), _taps(network, name)])
    apart = (sum(size[0] for size in alone), sum(size[1] for size in alone))
    rows.append(["joint network", *_shown(total), ""])
    rows.append([f"{len(alone)} models", *_shown(apart), ""])
    rows.append(["share", *(f"{ours / theirs:.2f}" for ours, theirs in zip(total, apart, strict=True)), ""])
    of_body = ", ".join(f"{key} {value}" for key, value in network.body.items() if key != "backbone")
    console.print(f"{network.backbone.name}, {of_body}", soft_wrap=True)
    title = f"a joint network at {size_hw[0]}x{size_hw[1]} (height x width)"
    console.print(table(title, ["", "M params", "M MACs", "taps: channels, stride"], rows))


def _size(model: nn.Module, size_hw: tuple[int, int]) -> tuple[float, float]:
    """(parameters, MACs for one image) of a model on the meta device."""
    return sum(parameter.numel() for parameter in model.parameters()), count_macs(model, size_hw)


def _shown(size: tuple[float, float]) -> list[str]:
    return [f"{size[0] / 1e6:.3f}", f"{size[1] / 1e6:.1f}"]


def _taps(network: JointNetwork, head: str) -> str:
    """The features that a head takes, in words."""
    features = network.backbone.features
    return "; ".join(f"{tap}: {features[tap].channels}, {features[tap].stride}" for tap in network.taps[head])
