"""Which of an architecture's taps a segmentation head takes; all are found in the table, none is listed by name."""

from backbone.architectures.plan import Feature, plan
from backbone.architectures.rows import Architecture
from backbone.errors import InputError


def low_tap(architecture: Architecture, variant: str) -> str:
    """The tap of stride 8 that LR-ASPP classifies beside the deepest one.

    "paper": the last depthwise output of that stride, which is what the official code names for MobileNetV2, V3-Large
    and V3-Small; the last block's output in the one network without such a tap (V4 conv Small). "torchvision": the
    output of the first block of that stride.
    """
    eighth = _of_stride(architecture, 8)
    outputs = [tap for tap in eighth if tap.endswith(".out")]
    if variant == "torchvision":
        return outputs[0]
    depthwise = [tap for tap in eighth if tap.endswith(".depthwise")]
    return (depthwise or outputs)[-1]


def high_tap(architecture: Architecture) -> str:
    """The deepest tap: the last 1x1 convolution where it belongs to the body, else the last block's output.

    It belongs to the classifier, and the official segmentation code leaves it out, in networks without a hidden layer
    after the pooling: MobileNetV2 and the searched networks of its time.
    """
    return "last" if architecture.hidden else f"{len(architecture.rows)}.out"


def merged_taps(architecture: Architecture) -> tuple[str, str, str]:
    """The taps that PaddleSeg's LR-ASPP merges: the last block's output at strides 4 and 8, and that of all blocks."""
    _, fine, low, *_ = pyramid(architecture)
    return fine, low, f"{len(architecture.rows)}.out"


def pyramid(architecture: Architecture) -> tuple[str, ...]:
    """Taps of strides 2, 4, 8, 16 and 32: the last block's output at each, the stem where no block has stride 2.

    Block outputs rather than expansions: the decoders' 3x3 convolutions cost in proportion to their input's channels,
    and an expansion has up to six times as many (672 against 112 at stride 16 of V3-Large). timm taps the same values.
    """
    outputs = [
        next((tap for tap in reversed(_of_stride(architecture, stride)) if tap.endswith(".out")), "stem")
        for stride in (2, 4, 8, 16)
    ]
    return (*outputs, high_tap(architecture))


def auxiliary_tap(architecture: Architecture) -> str:
    """The tap that an auxiliary head is trained on: the last block's output at stride 16."""
    return pyramid(architecture)[3]


def _of_stride(architecture: Architecture, stride: int) -> list[str]:
    """Taps of a stride in the network of output stride 32, in the order in which they are computed."""
    features: dict[str, Feature] = plan(architecture).features
    found = [tap for tap, feature in features.items() if feature.stride == stride]
    if not found:
        raise InputError(f"the network has no features of stride {stride}, which the head takes")
    return found
