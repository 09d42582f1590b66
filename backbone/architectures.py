"""The architecture tables of "Searching for MobileNetV3" (arXiv 1905.02244), row by row as printed."""

from typing import NamedTuple


class Row(NamedTuple):
    """One bottleneck of the paper's tables 1 and 2; channels are those at width 1."""

    kernel: int
    expanded: int  # channels between the two 1x1 convolutions ("exp size")
    out: int
    squeeze_excite: bool
    nonlinearity: str  # "RE" ReLU, "HS" hard swish
    stride: int


class Tail(NamedTuple):
    """The channels of the last three bottlenecks and of the last 1x1 convolution."""

    expanded: tuple[int, int, int]
    out: int
    last: int


class Architecture(NamedTuple):
    """A network: stem (3x3, stride 2, hard swish), bottlenecks, last 1x1 convolution, the classifier's hidden layer."""

    stem: int
    rows: tuple[Row, ...]
    tails: dict[str, Tail]
    hidden: int


SE, __ = True, False

# Table 1.
LARGE = Architecture(
    stem=16,
    rows=(
        # k, exp, out, SE, NL, s
        Row(3, 16, 16, __, "RE", 1),
        Row(3, 64, 24, __, "RE", 2),
        Row(3, 72, 24, __, "RE", 1),
        Row(5, 72, 40, SE, "RE", 2),
        Row(5, 120, 40, SE, "RE", 1),
        Row(5, 120, 40, SE, "RE", 1),
        Row(3, 240, 80, __, "HS", 2),
        Row(3, 200, 80, __, "HS", 1),
        Row(3, 184, 80, __, "HS", 1),
        Row(3, 184, 80, __, "HS", 1),
        Row(3, 480, 112, SE, "HS", 1),
        Row(3, 672, 112, SE, "HS", 1),
        Row(5, 672, 160, SE, "HS", 2),
        Row(5, 960, 160, SE, "HS", 1),
        Row(5, 960, 160, SE, "HS", 1),
    ),
    tails={
        "full": Tail((672, 960, 960), 160, 960),
        # Section 6.3: channels between C4 and C5 halved; C4 is block 13's expansion and stays.
        "detection": Tail((672, 480, 480), 80, 480),
        # Section 6.4, "RF2": the last block's channels halved, as the official segmentation code has it.
        "segmentation": Tail((336, 480, 480), 80, 480),
    },
    hidden=1280,
)

# Table 2. Its squeeze-and-excite tick on the last 1x1 convolution is a misprint: the official code has none there.
SMALL = Architecture(
    stem=16,
    rows=(
        Row(3, 16, 16, SE, "RE", 2),
        Row(3, 72, 24, __, "RE", 2),
        Row(3, 88, 24, __, "RE", 1),
        Row(5, 96, 40, SE, "HS", 2),
        Row(5, 240, 40, SE, "HS", 1),
        Row(5, 240, 40, SE, "HS", 1),
        Row(5, 120, 48, SE, "HS", 1),
        Row(5, 144, 48, SE, "HS", 1),
        Row(5, 288, 96, SE, "HS", 2),
        Row(5, 576, 96, SE, "HS", 1),
        Row(5, 576, 96, SE, "HS", 1),
    ),
    tails={
        "full": Tail((288, 576, 576), 96, 576),
        "detection": Tail((288, 288, 288), 48, 288),
        "segmentation": Tail((144, 288, 288), 48, 288),
    },
    hidden=1024,
)

ARCHITECTURES = {"mobilenet_v3_large": LARGE, "mobilenet_v3_small": SMALL}


def with_tail(architecture: Architecture, tail: str) -> tuple[Row, ...]:
    """The architecture's rows with the last three bottlenecks as the named tail has them."""
    chosen = architecture.tails[tail]
    last_three = [
        row._replace(expanded=expanded, out=chosen.out)
        for row, expanded in zip(architecture.rows[-3:], chosen.expanded, strict=True)
    ]
    return (*architecture.rows[:-3], *last_three)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than 10 % below `channels`: the rule of the MobileNet code."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
