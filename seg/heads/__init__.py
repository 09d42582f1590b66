"""Segmentation heads, built by name on the declared features of a backbone's taps.

    taps = required_taps("lraspp", architecture)
    network = backbone.create(name, taps=taps)
    head = build_head("lraspp", [network.features[tap] for tap in taps], num_classes=19)
    logits = head(*(network(images)[tap] for tap in taps))

A head knows nothing of its backbone, so other heads can share the backbone and its forward pass.
"""

from collections.abc import Sequence

from backbone.architectures.plan import Feature
from backbone.architectures.rows import Architecture
from backbone.errors import InputError, check_choice
from seg.heads.decoders import DECODERS, DecoderHead
from seg.heads.fuse import FuseHead
from seg.heads.lraspp import LRASPPHead, MergingLRASPPHead
from seg.heads.raspp import RASPPHead
from seg.heads.taps import high_tap, low_tap, merged_taps, pyramid
from seg.options import HEADS, POOLINGS, VARIANTS

HEAD_CHANNELS = {"lraspp": 128, "raspp": 256, "fuse": 64} | {
    name: decoder.head_channels for name, decoder in DECODERS.items()
}
"""Channels inside each head by default; LR-ASPP's is the paper's F."""
OUTPUT_STRIDES = {"lraspp": (16, 8, 32), "raspp": (16, 8, 32), "fuse": (32, 16)} | {
    name: decoder.output_strides for name, decoder in DECODERS.items()
}
"""Strides of the deepest feature that each head accepts, the default first."""
POOLING_OF_VARIANT = {"paper": "windows", "torchvision": "global", "paddle": "windows"}
Head = LRASPPHead | MergingLRASPPHead | RASPPHead | FuseHead | DecoderHead


def required_taps(head: str, architecture: Architecture, variant: str = "paper") -> tuple[str, ...]:
    """The taps whose features a head takes, in the order in which it takes them.

    Raises:
        InputError: an unknown head or variant; the message lists the valid ones. A network without one of the strides.
    """
    check_choice("head", head, HEADS)
    check_choice("variant", variant, VARIANTS)
    if head == "lraspp" and variant == "paddle":
        return merged_taps(architecture)
    if head == "lraspp":
        return low_tap(architecture, variant), high_tap(architecture)
    if head == "raspp":
        return (high_tap(architecture),)
    if head == "fuse":
        return pyramid(architecture)[2:]
    return pyramid(architecture)


def build_head(
    name: str,
    features: Sequence[Feature],
    *,
    num_classes: int,
    variant: str = "paper",
    head_channels: int | None = None,
    pooling: str | None = None,
    dropout: float = 0.0,
    align_corners: bool = False,
) -> Head:
    """A head with fresh weights: its inputs are the feature maps [N, C, H/s, W/s], its output the logits.

    Every head declares `stride`, that of its logits [N, num_classes, H/stride, W/stride], and what it asks of the
    input: sides that are multiples of `multiple` and at least `least`, in pixels.

    Arguments:
        name: one of `seg.options.HEADS`.
        features: channels and strides of `required_taps`, in that order; the last one is the deepest.
        variant: of LR-ASPP: "paper", "torchvision" or "paddle" (three maps, which end at stride 4).
        head_channels: channels inside the head; by default `HEAD_CHANNELS`.
        pooling: of LR-ASPP: "windows" or "global"; by default the variant's.
        dropout: probability of dropping a channel before the classifying convolution.
        align_corners: how LR-ASPP resizes its maps; see `seg.resizing.resize`.

    Raises:
        InputError: an unknown name, or a number or stride that does not fit the head.
    """
    check_choice("head", name, HEADS)
    check_choice("variant", variant, VARIANTS)
    check_choice("pooling", pooling, (None, *POOLINGS))
    if head_channels is None:
        head_channels = HEAD_CHANNELS[name]
    for what, value in (("num_classes", num_classes), ("head_channels", head_channels)):
        if value < 1:
            raise InputError(f"{what} {value} must be at least 1")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout {dropout} must be at least 0 and below 1")
    if align_corners and (name != "lraspp" or variant == "paddle"):
        what = f"variant {variant!r}" if name == "lraspp" else f"head {name!r}"
        raise InputError(f"align_corners does not fit {what}; it is for lraspp as DeepLab has it")
    output_stride = features[-1].stride
    if output_stride not in OUTPUT_STRIDES[name]:
        valid = ", ".join(map(str, OUTPUT_STRIDES[name]))
        raise InputError(f"output_stride {output_stride} does not fit head {name!r}; valid: {valid}")

    common = {"num_classes": num_classes, "head_channels": head_channels, "dropout": dropout}
    if name == "lraspp":
        pooling = pooling or POOLING_OF_VARIANT[variant]
        if variant == "paddle":
            return MergingLRASPPHead(*features, pooling=pooling, **common)
        return LRASPPHead(*features, variant=variant, pooling=pooling, align_corners=align_corners, **common)
    if name == "raspp":
        return RASPPHead(*features, **common)
    if name == "fuse":
        return FuseHead(features, **common)
    return DecoderHead(name, features, **common)
