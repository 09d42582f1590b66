"""Translates the names of TF-slim's layers, in which the authors published MobileNetV2 and V3, to ours.

The names are taken from graphs that the official code builds; the published files could not be opened.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.weights.translation import INCEPTION, Layout

SCOPE = re.compile(r"((?:FeatureExtractor/)?MobilenetV[23])/Conv/weights")
"""The name of the stem's weights, in a detector or elsewhere."""

NORM_VALUES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
HIGHEST_GATE = 6 * 0.16667  # slim's gate of squeeze-and-excite is relu6(x + 3) * 0.16667
VALUES = {"weights": "weight", "depthwise_weights": "weight", "biases": "bias"}
OUTSIDE_BLOCKS = {"Conv": "stem", "Conv_1": "last", "Conv_2": "hidden", "Logits/Conv2d_1c_1x1": "output"}
INSIDE_BLOCKS = {
    "expand": "expand",
    "depthwise": "depthwise",
    "squeeze_excite/Conv": "squeeze_excite.reduce",
    "squeeze_excite/Conv_1": "squeeze_excite.expand",
    "project": "project",
}


def recognise(state: Mapping[str, Tensor], source: str) -> Layout | None:
    """A checkpoint of slim's MobileNetV2 or V3, alone or inside DeepLab or a detector, in our names; else None.

    Its ImageNet classifiers have 1001 outputs; the first stands for background, which no image is labelled as, and is
    left out. On maps that are not square they pool windows of 7x7 and average the logits, where ours pool the whole
    map: outputs are equal for square images only.

    Raises:
        InputError: the network was trained with simulated quantisation.
    """
    scope = next((found[1] for found in map(SCOPE.match, state) if found), None)
    if scope is None:
        return None
    if quantised := [name for name in state if re.search(r"(act|weights)_quant/", name)]:
        raise InputError(
            f"{source}: was trained with simulated quantisation ({quantised[0]}), which is not computed here; give the "
            "checkpoint of the float network"
        )
    within = re.compile(rf"{scope}/(?!layer_\d+_)")  # a detector's extra layers lie in there as well
    body = {name: value for name, value in state.items() if within.match(name)}
    ours = renamed(body, body_layers(body, scope))
    for layer in ("hidden", "output"):
        if f"{layer}.weight" in ours:
            ours[f"{layer}.weight"] = ours[f"{layer}.weight"].flatten(1)  # a 1x1 convolution of one pixel
    if len(ours.get("output.weight", ())) == 1001:
        ours |= {f"output.{value}": ours[f"output.{value}"][1:] for value in ("weight", "bias")}
    return Layout("slim", ours, 1e-3, "same", *INCEPTION)


def body_layers(state: Mapping[str, Tensor], scope: str) -> dict[str, str]:
    """slim's layers of a MobileNetV2 or V3 and its classifier -> ours.

    Arguments:
        scope: the prefix of the network's names: "MobilenetV3", "FeatureExtractor/MobilenetV3", …
    """
    layers = {f"{scope}/{theirs}": ours for theirs, ours in OUTSIDE_BLOCKS.items()}
    block = re.compile(rf"{re.escape(scope)}/expanded_conv(?:_(\d+))?/")
    for found in filter(None, map(block.match, state)):
        number = int(found[1] or 0) + 1
        layers |= {f"{found[0]}{theirs}": f"blocks.{number}.{ours}" for theirs, ours in INSIDE_BLOCKS.items()}
    return layers


def renamed(state: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor]:
    """A checkpoint's tensors by our names; a name that `layers` lacks stays, and a strict load reports it.

    A layer with a norm becomes `ours.conv` and `ours.norm`, one without a norm `ours`. slim's gates reach HIGHEST_GATE,
    ours 1; the weights of the projection that follows are multiplied by that factor.
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
