"""What the architecture tables are made of: a row per block, and the layers around the rows."""

from typing import NamedTuple


class Row(NamedTuple):
    """One block; channels are those at width 1."""

    kernel: int  # of the depthwise convolution (of the full one in a fused block); 0: the block has none
    expanded: int  # channels between the two 1x1 convolutions ("exp size")
    out: int
    squeeze_excite: float  # channels of the squeezed layer relative to what `Squeeze.of` names; 0: none
    nonlinearity: str  # "RE" ReLU, "R6" ReLU6, "HS" hard swish
    stride: int
    kind: str = "ir"  # a key of KINDS
    start: int = 0  # kernel of a depthwise convolution before the expansion (universal inverted bottleneck)
    skip: bool = True  # add the input where the shapes allow it


KINDS = {
    "ds": "depthwise and linear 1x1 convolution",
    "dsa": "depthwise and 1x1 convolution, both activated",
    "ir": "inverted residual: 1x1 expansion, depthwise, linear 1x1 projection",
    "er": "fused inverted residual: full k x k expansion, linear 1x1 projection",
    "era": "fused, both convolutions activated, no skip",
    "uir": "universal inverted bottleneck: [depthwise], 1x1 expansion, [depthwise], linear 1x1 projection",
}


class Squeeze(NamedTuple):
    """How a family builds squeeze-and-excite."""

    of: str = "expanded"  # what squeezed channels are relative to: "expanded", or the block's "input"
    divisor: int = 8  # squeezed channels are rounded to a multiple of this
    gate: str = "hard_sigmoid"  # or "sigmoid"
    nonlinearity: str = "RE"  # of the squeezed layer; "" for the block's own
    before_activation: bool = False  # in blocks that expand, before the depthwise convolution's activation; else after


class Tail(NamedTuple):
    """The channels of the last bottlenecks, as many as are listed, and of the last 1x1 convolution."""

    expanded: tuple[int, ...]
    out: tuple[int, ...]
    last: int


class Architecture(NamedTuple):
    """A network: stem (3x3, stride 2), blocks, last 1x1 convolution, the classifier's hidden layer."""

    stem: int
    rows: tuple[Row, ...]
    nonlinearity: str  # of stem, last convolution and hidden layer
    last: int = 0  # channels of the last 1x1 convolution; 0: the blocks are the whole body
    last_width: str = "scaled"  # how `last` follows the width: "scaled", "grows" (above 1 only) or "fixed"
    hidden: int = 0  # between pooling and the output layer; 0: none
    hidden_width: str = "fixed"  # as `last_width`
    hidden_bias: bool = True
    hidden_norm: bool = False
    squeeze: Squeeze = Squeeze()
    padding: str = "symmetric"  # what a training chooses where neither the user nor weights do; or "same"
    tails: tuple[tuple[str, Tail], ...] = ()  # other last stages by name, besides "full"


def repeated(in_channels: int, stages: list[tuple[int, int, int, int, int, float]], nonlinearity: str) -> list[Row]:
    """Inverted residuals from stages (kernel, expansion, out, repeats, stride, squeeze_excite).

    The expansion is a multiple of the block's input; only a stage's first block is strided.
    """
    rows = []
    for kernel, expansion, out, repeats, stride, squeeze_excite in stages:
        for number in range(repeats):
            step = stride if number == 0 else 1
            rows.append(Row(kernel, expansion * in_channels, out, squeeze_excite, nonlinearity, step))
            in_channels = out
    return rows


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than 10 % below `channels`: the rule of the MobileNet code."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
