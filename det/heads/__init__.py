"""Detection heads, built by name on the declared features of a backbone's taps; each owns its anchors.

    taps = required_taps("ssdlite", architecture)
    network = backbone.create(name, taps=taps)
    head = build_head("ssdlite", [network.features[tap] for tap in taps], num_classes=80)
    raw = head(*(network(images)[tap] for tap in taps))
    boxes_xyxy = head.decode(raw.box_offsets, head.anchors(image_size_hw))

A head knows nothing of its backbone, so other heads can share the backbone and its forward pass.
"""

from collections.abc import Sequence

from torch import nn

from backbone.architectures.plan import Feature, plan
from backbone.architectures.rows import Architecture
from backbone.errors import InputError, check_choice
from backbone.network import initialise
from det.heads.pico import SIZES as PICO_SIZES
from det.heads.pico import PicoHead
from det.heads.ssdlite import SSDLiteHead
from det.heads.ssdlite_fpn import FPNLiteHead
from det.options import HEADS, VARIANTS

PYRAMID = (8, 16, 32)
STRIDES = {"ssdlite": (16, 32), "ssdlite_fpn": PYRAMID, "pico96": PYRAMID, "pico128": PYRAMID}
"""Strides of the features that each head takes."""

NORM_MOMENTUM = {
    # torchvision's is the official decay of 0.97. In runs of hundreds of steps such statistics lag so far that AP 0.7
    # is measured as 0.1, so the paper variant has PyTorch's default and leaves smoothing to the weight average.
    "paper": 0.1,
    "torchvision": 0.03,
    "paddle": 0.1,
}
INIT_STD = 0.03
Head = SSDLiteHead | FPNLiteHead | PicoHead
INIT_CLASS_BIAS = -4.6
"""log(0.01 / 0.99): every class starts out improbable, or thousands of background anchors dominate the first steps."""


def required_taps(head: str, architecture: Architecture) -> tuple[str, ...]:
    """The taps whose features a head takes, finest first: at each stride the deepest value inside the backbone.

    For "ssdlite" this is, at stride 16, the paper's C4, "the expansion layer of the 13th bottleneck block" of V3-Large,
    of the 9th of V3-Small; at the last stride it is "last", the 1x1 convolution. The pico heads take the last block's
    output at each, as PicoDet does.

    Raises:
        InputError: an unknown head; the message lists the valid ones. A network without one of the strides.
    """
    check_choice("head", head, HEADS)
    features = plan(architecture).features.items()
    outputs = head in PICO_SIZES
    deepest = {feature.stride: tap for tap, feature in features if tap.endswith(".out") or not outputs}
    for stride in STRIDES[head]:
        if stride not in deepest:
            raise InputError(f"the network has no features of stride {stride}, which head {head} takes")
    return tuple(deepest[stride] for stride in STRIDES[head])


def build_head(
    name: str,
    features: Sequence[Feature],
    *,
    num_classes: int,
    variant: str = "paper",
    width: float = 1.0,
    head_channels: int = 128,
    padding: str = "symmetric",
    one_to_one: bool = False,
) -> Head:
    """A head with fresh weights: its inputs are the feature maps [N, C, H/s, W/s], its output `RawDetections`.

    Arguments:
        name: one of `det.options.HEADS`.
        features: channels and strides of `required_taps`, or of other taps of the same strides, in that order.
        num_classes: K, columns of the class logits.
        variant: "paper", or "torchvision" or "paddle" (of "ssdlite" only); see `det.create`. torchvision initialises
            backbone and head together, which is `det.create`'s part; the others' weights are initialised here.
        width: multiplies the channels of the extra maps, "ssdlite" only.
        head_channels: channels of the merged maps and of the predictor, "ssdlite_fpn" only.
        padding: of strided convolutions: "symmetric", or "same" as TensorFlow pads.
        one_to_one: a second set of predictors for boxes without NMS, the pico heads only.

    Raises:
        InputError: an unknown name or variant, too few classes, features of other strides than the head takes, or
            one-to-one predictors of a head that has none.
    """
    check_choice("head", name, HEADS)
    check_choice("variant", variant, VARIANTS)
    if name != "ssdlite" and variant != "paper":
        raise InputError(f"head {name} has no variant {variant!r}; use variant paper")
    if one_to_one and name not in PICO_SIZES:
        raise InputError(f"head {name} has no one-to-one predictors; choose one of {', '.join(PICO_SIZES)}")
    fewest = 1 if variant == "paper" else 2
    if num_classes < fewest:
        raise InputError(f"num_classes is {num_classes}; variant {variant} needs at least {fewest}")
    strides = tuple(feature.stride for feature in features)
    if strides != STRIDES[name]:
        raise InputError(
            f"taps of strides {_text(strides)} do not fit head {name}; it takes one at each of the strides "
            f"{_text(STRIDES[name])}, in this order"
        )
    common = {"num_classes": num_classes, "norm_momentum": NORM_MOMENTUM[variant], "padding": padding}
    if name == "ssdlite":
        head = SSDLiteHead(*features, variant=variant, width=width, **common)
    elif name in PICO_SIZES:
        head = PicoHead(features, size=name, one_to_one=one_to_one, **common)
    else:
        head = FPNLiteHead(features, head_channels=head_channels, **common)
    if variant != "torchvision":
        # He initialisation before norms: the official N(0, 0.03) would give depthwise weights so small there that
        # adaptive optimisers change them by a tenth in one step.
        initialise(head)
        class_layers, box_layers = head.output_layers()
        for layer in (*class_layers, *box_layers):
            nn.init.normal_(layer.weight, std=INIT_STD)
        for layer in class_layers:
            if layer.bias is not None:
                nn.init.constant_(layer.bias, INIT_CLASS_BIAS)
    return head


def _text(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))
