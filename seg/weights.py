"""Weights of whole segmentation models: ours, LR-ASPP of torchvision, DeepLab and PaddleSeg; loaded strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from backbone.errors import InputError
from backbone.weights import slim
from backbone.weights.layouts import torchvision_names
from backbone.weights.loading import load_strictly, read_described, read_weights
from backbone.weights.refusals import require_settings, source_name, unknown_layout
from backbone.weights.translation import IMAGENET, INCEPTION, Triple, conv_norm, linear
from seg import paddle_weights
from seg.heads.lraspp import MergingLRASPPHead
from seg.model import Segmenter, create

DEEPLAB_SIGN = "decoder/decoder_conv0/weights"
"""A tensor that DeepLab's decoders without depthwise convolutions have; `_is_deeplab` says which is LR-ASPP."""

DEEPLAB_LAYERS = {
    "aspp0": "head.project",
    "image_pooling": "head.gate",
    "decoder/feature_projection0": "head.classify_low",
    "decoder/decoder_conv0": "head.classify_high",
}


def load_weights(model: Segmenter, source: str | Path | Mapping[str, Tensor]) -> str:
    """Loads a checkpoint, recognised by its tensors' names, and returns its layout.

    Arguments:
        model: is left as it was where the weights do not fit.
        source: a weights file, or a state dict.

    Returns:
        "taproot", "torchvision", "deeplab" or "paddle".

    Raises:
        InputError: the layout is unknown, the weights need another padding or `align_corners` than the model has, or a
            tensor is missing, left over or of another shape.
    """
    name = source_name(source)
    state, description = read_described(source)
    built = {"padding": model.backbone.padding, "align_corners": model.align_corners}
    needed = built
    if "backbone.stem.conv.weight" in state:
        layout = "taproot"
        needed = built | {key: value for key, value in description.get("model", {}).items() if key in built}
    elif "classifier.cbr.0.weight" in state:
        layout, needed = "torchvision", {"padding": "symmetric", "align_corners": False}
        state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
        names = _torchvision_names(model)
        state = {names.get(key, key): value for key, value in state.items()}
    elif _is_deeplab(state):
        layout, needed = "deeplab", {"padding": "same", "align_corners": True}
        state = _from_deeplab(state)
    elif paddle_weights.SIGN in state:
        layout, needed = "paddle", {"padding": "symmetric"}
        if not isinstance(model.head, MergingLRASPPHead):
            raise InputError(f"{name}: PaddleSeg's LR-ASPP needs variant='paddle'; build it so, or use from_weights")
        state = paddle_weights.translate(state, model.backbone.stem.norm.eps)
    else:
        if "decode_head.aspp_conv.conv.weight" in state:
            raise InputError(
                f"{name}: mmseg's LR-ASPP, whose decoder merges three maps, which no head here does; "
                "the file can be used as a backbone's weights"
            )
        if any(key.startswith(("logits/semantic/", "aspp0/")) for key in state):
            raise InputError(
                f"{name}: of DeepLab, but not its LR-ASPP on MobileNetV3, the one model of DeepLab's known here; "
                "if its backbone is a MobileNetV2 or V3, the file can be used as that backbone's weights"
            )
        raise unknown_layout(state, source=name, known="LR-ASPP of torchvision, DeepLab and PaddleSeg, and ours")
    require_settings(needed, built, layout=layout, source=name)
    load_strictly(model, state, source=name)
    return layout


class Pretrained(NamedTuple):
    """What `from_weights` found in a checkpoint."""

    model: Segmenter
    layout: str
    arguments: dict[str, Any]  # the keywords of `create` that build the model
    mean: Triple  # the input normalisation of the published file, for RGB in 0..1
    std: Triple


def from_weights(source: str | Path | Mapping[str, Tensor]) -> Pretrained:
    """Builds the segmentation model of a checkpoint of torchvision, DeepLab or PaddleSeg, and loads it.

    For DeepLab's LR-ASPP on MobileNetV3, what the weights do not tell is taken from the documentation of the published
    Cityscapes checkpoints (Large and Small, 2019-11-15): output stride 32, and pooling windows of 25x25 with stride
    (4, 5). At output stride 16 the official Small network also has a residual connection in block 9, which ours lacks.
    Verified against the official graph with random weights; the published files could not be opened.

    Of PaddleSeg's LR-ASPP on MobileNetV3-Large, the weights do not tell the output stride and the pooling: these are
    taken from the best of the published checkpoints, "Large kernel", with stride 8 and pooling windows of 49x49. For
    the others build the model (pooling="global", output_stride 8 or 32) and use `load_weights`.

    Raises:
        InputError: what `load_weights` raises.
    """
    state = read_weights(source)
    arguments: dict[str, Any] = {"head": "lraspp"}
    if _is_deeplab(state):
        small = "MobilenetV3/expanded_conv_11/project/weights" not in state
        arguments |= {"backbone": "mobilenet_v3_small" if small else "mobilenet_v3_large", "variant": "paper"}
        arguments |= {"num_classes": len(state[DEEPLAB_SIGN]), "head_channels": len(state["aspp0/weights"])}
        arguments |= {"output_stride": 32, "padding": "same", "align_corners": True}
        normalisation = INCEPTION
    elif paddle_weights.SIGN in state:
        arguments = paddle_weights.arguments(state, source_name(source))
        normalisation = INCEPTION
    else:
        arguments |= {"backbone": "mobilenet_v3_large", "variant": "torchvision"}
        if "classifier.cbr.0.weight" in state:
            arguments["num_classes"] = len(state["classifier.low_classifier.weight"])
            arguments["head_channels"] = len(state["classifier.cbr.0.weight"])
        normalisation = IMAGENET
    model = create(**arguments)
    return Pretrained(model, load_weights(model, source), arguments, *normalisation)


def _is_deeplab(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is DeepLab's LR-ASPP on MobileNetV3."""
    signs = {DEEPLAB_SIGN, "aspp0/weights", "image_pooling/biases", "MobilenetV3/Conv/weights"}
    return signs <= state.keys()


def _from_deeplab(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    body = {theirs: f"backbone.{ours}" for theirs, ours in slim.body_layers(state, "MobilenetV3").items()}
    ours = slim.renamed(state, body | DEEPLAB_LAYERS)
    # Their hard sigmoid reaches HIGHEST_GATE rather than 1; the layer after the gate absorbs the factor, as projections
    # do in slim's blocks.
    return ours | {"head.classify_high.weight": ours["head.classify_high.weight"] * slim.HIGHEST_GATE}


def _torchvision_names(model: Segmenter) -> dict[str, str]:
    names = {
        theirs.replace("features.", "backbone.", 1): f"backbone.{ours}"
        for theirs, ours in torchvision_names(model.backbone).items()
    }
    names |= conv_norm("classifier.cbr", "head.project")
    names["classifier.scale.1.weight"] = "head.gate.weight"
    for level in ("low", "high"):
        names |= linear(f"classifier.{level}_classifier", f"head.classify_{level}")
    return names
