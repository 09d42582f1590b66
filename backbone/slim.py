"""Translates the names of TF-slim's layers, in which the authors published MobileNetV2 and V3, to ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

NORM_VALUES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
HIGHEST_GATE = 6 * 0.16667  # squeeze-and-excite's gate is relu6(x + 3) * 0.16667
VALUES = {"weights": "weight", "depthwise_weights": "weight", "biases": "bias"}
OUTSIDE_BLOCKS = {"Conv": "stem", "Conv_1": "last", "Conv_2": "hidden", "Logits/Conv2d_1c_1x1": "output"}
INSIDE_BLOCKS = {
    "expand": "expand",
    "depthwise": "depthwise",
    "squeeze_excite/Conv": "squeeze_excite.reduce",
    "squeeze_excite/Conv_1": "squeeze_excite.expand",
    "project": "project",
}


def body_layers(state: Mapping[str, Tensor], scope: str) -> dict[str, str]:
    """slim's layers of a MobileNetV2 or V3 -> ours, with those of its classifier.

    Arguments:
        scope: what the network's names begin with: "MobilenetV3", "FeatureExtractor/MobilenetV3", …
    """
    layers = {f"{scope}/{theirs}": ours for theirs, ours in OUTSIDE_BLOCKS.items()}
    block = re.compile(rf"{re.escape(scope)}/expanded_conv(?:_(\d+))?/")
    for found in filter(None, map(block.match, state)):
        number = int(found[1] or 0) + 1
        layers |= {f"{found[0]}{theirs}": f"blocks.{number}.{ours}" for theirs, ours in INSIDE_BLOCKS.items()}
    return layers


def renamed(state: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor]:
    """A checkpoint's tensors with the names that `layers` gives; others keep theirs, and a strict load reports them.

    A layer with a norm becomes `ours.conv` and `ours.norm`, one without it `ours`. slim's gates are a little above 1 at
    most, ours 1; the projection that follows them makes up for it.
    """
    ours = {}
    for name, tensor in state.items():
        scope, _, value = name.rpartition("/")
        layer = layers.get(scope.removesuffix("/BatchNorm"))
        if layer is not None and scope.endswith("/BatchNorm") and value in NORM_VALUES:
            ours[f"{layer}.norm.{NORM_VALUES[value]}"] = tensor
            ours[f"{layer}.norm.num_batches_tracked"] = torch.tensor(0)
        elif layer is not None and not scope.endswith("/BatchNorm") and value in VALUES:
            conv = ".conv" if f"{scope}/BatchNorm/moving_mean" in state else ""
            ours[f"{layer}{conv}.{VALUES[value]}"] = tensor
        else:
            ours[name] = tensor
    for name in [name for name in ours if name.endswith(".squeeze_excite.expand.weight")]:
        projection = name.replace(".squeeze_excite.expand.weight", ".project.conv.weight")
        if projection in ours:
            ours[projection] = ours[projection] * HIGHEST_GATE
    return ours
