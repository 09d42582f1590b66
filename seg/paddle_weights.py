"""PaddleSeg's LR-ASPP on MobileNetV3: its names translated to ours.

The graph is that of `configs/lraspp` of PaddleSeg, `paddleseg/models/lraspp.py`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbone.errors import InputError
from backbone.weights import paddle
from backbone.weights.loading import with_norm_eps
from backbone.weights.translation import highest, renamed
from seg.heads.lraspp import LATERAL_CHANNELS

SIGN = "lraspp_head.conv_t.weight"
CLASSES = "lraspp_head.conv_out.weight"
BODY = "backbone."
MERGED = len(LATERAL_CHANNELS)


def arguments(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The keywords of `seg.create` that build a checkpoint's model.

    Raises:
        InputError: the backbone is another one, or there is no classifying convolution.
    """
    blocks = 1 + highest(r"backbone\.blocks\.(\d+)\.linear_conv\.", dict(state))
    if blocks not in paddle.NETWORKS or CLASSES not in state:
        raise InputError(f"{source}: PaddleSeg's LR-ASPP, but not on MobileNetV3; no other is known")
    return {
        "head": "lraspp",
        "backbone": paddle.NETWORKS[blocks],
        "variant": "paddle",
        "num_classes": len(state[CLASSES]),
        "head_channels": len(state[SIGN]),
        "output_stride": 8,
        "pooling": "windows",
    }


def translate(state: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """A checkpoint's tensors by our names; names without a translation stay, and a strict load reports them.

    Arguments:
        norm_eps: of our body's norms; the scales of Paddle's are adapted.
    """
    body = {key.removeprefix(BODY): value for key, value in state.items() if key.startswith(BODY)}
    found = paddle.recognise(body, BODY)
    if found is not None:
        assert found.norm_eps is not None
        body = with_norm_eps(found.state, found.norm_eps, norm_eps)
    names = {
        "lraspp_head.conv_w.1.weight": "head.gate.weight",
        SIGN: "head.mix.weight",
        CLASSES: "head.classify.weight",
    }
    normed = {"lraspp_head.conv_v": "head.project"}
    for number in range(MERGED):
        names[f"lraspp_head.convs.{number}.weight"] = f"head.laterals.{number}.weight"
        normed[f"lraspp_head.conv_ups.{number}"] = f"head.merges.{number}"
    head = {key: value for key, value in state.items() if not key.startswith(BODY)}
    for theirs, ours in normed.items():
        names |= paddle.conv_norm(theirs, ours, convolution="_conv", norm="_batch_norm")
        # Their convolutions before norms have biases, which shift what the norm subtracts.
        bias, mean = head.pop(f"{theirs}._conv.bias", None), f"{theirs}._batch_norm._mean"
        if bias is not None and mean in head:
            head[mean] = head[mean] - bias
    return {BODY + key: value for key, value in body.items()} | paddle.finished(renamed(head, names))
