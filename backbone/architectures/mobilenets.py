"""The tables of MobileNetV1 (arXiv 1704.04861), V2 (1801.04381), V3 (1905.02244) and V4 (2404.10518), as printed."""

from backbone.architectures.rows import Architecture, Row, Squeeze, Tail, repeated

SE, __ = 0.25, 0.0


# V1, table 1: depthwise separable convolutions, both halves activated.
V1 = Architecture(
    stem=32,
    rows=tuple(
        # k, -, out, -, NL, s
        Row(3, 0, out, __, "R6", stride, "dsa", skip=False)
        for out, stride in (
            (64, 1),
            (128, 2),
            (128, 1),
            (256, 2),
            (256, 1),
            (512, 2),
            (512, 1),
            (512, 1),
            (512, 1),
            (512, 1),
            (512, 1),
            (1024, 2),
            (1024, 1),
        )
    ),
    nonlinearity="R6",
)
# Not in the paper: timm's mobilenetv1_100h has a last 1x1 convolution.
V1_LAST = V1._replace(last=1024, last_width="grows")


def v2(repeats: tuple[int, ...], last_width: str) -> Architecture:
    """V2, table 2; `repeats` is its column n."""
    stages = [
        # k, t, c, s
        (3, 6, 24, 2),
        (3, 6, 32, 2),
        (3, 6, 64, 2),
        (3, 6, 96, 1),
        (3, 6, 160, 2),
        (3, 6, 320, 1),
    ]
    rows = [(k, t, c, n, s, __) for (k, t, c, s), n in zip(stages, repeats, strict=True)]
    return Architecture(
        stem=32,
        rows=(Row(3, 32, 16, __, "R6", 1, "ds"), *repeated(16, rows, "R6")),
        nonlinearity="R6",
        last=1280,
        last_width=last_width,
    )


V2 = v2((2, 3, 4, 3, 3, 1), "grows")._replace(
    # V3, section 6.4, "RF2" for V2: outputs from the 160 channels on halved, which reproduces table 7 within 1.2 %.
    tails=(("segmentation", Tail((576, 480, 480, 480), (80, 80, 80, 160), 1280)),)
)
# Not in the paper: timm's deeper mobilenetv2_110d and _120d, which keep the last convolution at 1280.
V2_DEPTH_12 = v2((3, 4, 5, 4, 4, 1), "fixed")
V2_DEPTH_14 = v2((3, 5, 6, 5, 5, 1), "fixed")


# V3, table 1.
V3_LARGE = Architecture(
    stem=16,
    rows=(
        # k, exp, out, SE, NL, s
        Row(3, 16, 16, __, "RE", 1, "ds"),
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
    nonlinearity="HS",
    last=960,
    hidden=1280,  # at width 1.25 too, or the network would have 8.3M parameters instead of the appendix's 7.5M
    tails=(
        # Section 6.3: channels between C4 and C5 halved; C4 is block 13's expansion and stays.
        ("detection", Tail((672, 480, 480), (80, 80, 80), 480)),
        # Section 6.4, "RF2": the last block's channels halved, as the official segmentation code has it.
        ("segmentation", Tail((336, 480, 480), (80, 80, 80), 480)),
    ),
)

# V3, table 2. Its squeeze-and-excite tick on the last 1x1 convolution is a misprint: the official code has none there.
V3_SMALL = Architecture(
    stem=16,
    rows=(
        Row(3, 16, 16, SE, "RE", 2, "ds"),
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
    nonlinearity="HS",
    last=576,
    hidden=1024,
    hidden_width="grows",  # the appendix's 3.6M parameters at width 1.25
    tails=(
        ("detection", Tail((288, 288, 288), (48, 48, 48), 288)),
        ("segmentation", Tail((144, 288, 288), (48, 48, 48), 288)),
    ),
)


def minimalistic(architecture: Architecture) -> Architecture:
    """The official code's form for hardware without the extras: 3x3 kernels, no squeeze-and-excite, ReLU throughout."""
    rows = tuple(row._replace(kernel=3, squeeze_excite=__, nonlinearity="RE") for row in architecture.rows)
    return architecture._replace(rows=rows, nonlinearity="RE")


V3_LARGE_MINIMALISTIC = minimalistic(V3_LARGE)
V3_SMALL_MINIMALISTIC = minimalistic(V3_SMALL)
# timm's early mobilenetv3_rw: squeezed channels not rounded and with the block's activation, no skip in block 1, no
# bias in the hidden layer.
V3_LARGE_RW = V3_LARGE._replace(
    rows=(V3_LARGE.rows[0]._replace(skip=False), *V3_LARGE.rows[1:]),
    hidden_bias=False,
    squeeze=Squeeze(divisor=1, nonlinearity=""),
)
# Randl's port: block 1 has a 1x1 expansion, and squeezed channels are not rounded.
V3_LARGE_RANDL = V3_LARGE._replace(
    rows=(V3_LARGE.rows[0]._replace(kind="ir"), *V3_LARGE.rows[1:]),
    squeeze=Squeeze(divisor=1),
)
# PaddleClas' networks are like it; Small's hidden layer has Large's channels.
V3_SMALL_PADDLE = V3_SMALL._replace(
    rows=(V3_SMALL.rows[0]._replace(kind="ir"), *V3_SMALL.rows[1:]),
    hidden=1280,
    squeeze=Squeeze(divisor=1),
)
# d-li14's port: squeeze-and-excite before the activation; in Small's block 1, which does not expand, after it.
V3_LARGE_SE_BEFORE_ACTIVATION = V3_LARGE._replace(squeeze=Squeeze(before_activation=True), tails=())
V3_SMALL_SE_BEFORE_ACTIVATION = V3_SMALL._replace(squeeze=Squeeze(before_activation=True), tails=())
# Not in the paper: timm's deeper mobilenetv3_large_150d, which has the last 1x1 convolution twice: here, as a block.
V3_LARGE_DEPTH_12 = V3_LARGE._replace(
    rows=(
        *(
            row
            for row, count in zip(V3_LARGE.rows, (2, 1, 2, 1, 1, 2, 1, 2, 1, 1, 1, 2, 1, 1, 2), strict=True)
            for _ in range(count)
        ),
        Row(1, 960, 960, __, "HS", 1, "era"),
    ),
    last=0,
    tails=(),
)


def _uib(start: int, middle: int, expanded: int, out: int, stride: int) -> Row:
    """A row of V4's tables. The two depthwise kernels (0: none) imply its block name, which is left out here.

    Both: ExtraDW; the first: ConvNeXt; the second: inverted bottleneck (IB); none: feed-forward network (FFN).
    """
    return Row(middle, expanded, out, __, "RE", stride, "uir", start)


# V4's classifier: after the pooling, a 1x1 convolution to 1280 channels with norm.
V4_CONV_SMALL = Architecture(
    stem=32,
    rows=(
        # The paper calls the first two FusedIB; both their convolutions are activated.
        Row(3, 32, 32, __, "RE", 2, "era"),
        Row(3, 96, 64, __, "RE", 2, "era"),
        # start k, middle k, exp, out, s
        _uib(5, 5, 192, 96, 2),
        _uib(0, 3, 192, 96, 1),
        _uib(0, 3, 192, 96, 1),
        _uib(0, 3, 192, 96, 1),
        _uib(0, 3, 192, 96, 1),
        _uib(3, 0, 384, 96, 1),
        _uib(3, 3, 576, 128, 2),
        _uib(5, 5, 512, 128, 1),
        _uib(0, 5, 512, 128, 1),
        _uib(0, 5, 384, 128, 1),
        _uib(0, 3, 512, 128, 1),
        _uib(0, 3, 512, 128, 1),
    ),
    nonlinearity="RE",
    last=960,
    hidden=1280,
    hidden_bias=False,
    hidden_norm=True,
)
V4_CONV_MEDIUM = V4_CONV_SMALL._replace(
    rows=(
        Row(3, 128, 48, __, "RE", 2, "er"),
        _uib(3, 5, 192, 80, 2),
        _uib(3, 3, 160, 80, 1),
        _uib(3, 5, 480, 160, 2),
        _uib(3, 3, 640, 160, 1),
        _uib(3, 3, 640, 160, 1),
        _uib(3, 5, 640, 160, 1),
        _uib(3, 3, 640, 160, 1),
        _uib(3, 0, 640, 160, 1),
        _uib(0, 0, 320, 160, 1),
        _uib(3, 0, 640, 160, 1),
        _uib(5, 5, 960, 256, 2),
        _uib(5, 5, 1024, 256, 1),
        _uib(3, 5, 1024, 256, 1),
        _uib(3, 5, 1024, 256, 1),
        _uib(0, 0, 1024, 256, 1),
        _uib(3, 0, 1024, 256, 1),
        _uib(3, 5, 512, 256, 1),
        _uib(5, 5, 1024, 256, 1),
        _uib(0, 0, 1024, 256, 1),
        _uib(0, 0, 1024, 256, 1),
        _uib(5, 0, 512, 256, 1),
    ),
)
V4_CONV_LARGE = V4_CONV_SMALL._replace(
    stem=24,
    rows=(
        Row(3, 96, 48, __, "RE", 2, "er"),
        _uib(3, 5, 192, 96, 2),
        _uib(3, 3, 384, 96, 1),
        _uib(3, 5, 384, 192, 2),
        *(_uib(3, 3, 768, 192, 1) for _ in range(3)),
        _uib(3, 5, 768, 192, 1),
        *(_uib(5, 3, 768, 192, 1) for _ in range(5)),
        _uib(3, 0, 768, 192, 1),
        _uib(5, 5, 768, 512, 2),
        *(_uib(5, 5, 2048, 512, 1) for _ in range(3)),
        _uib(5, 0, 2048, 512, 1),
        _uib(5, 3, 2048, 512, 1),
        *(_uib(5, 0, 2048, 512, 1) for _ in range(2)),
        _uib(5, 3, 2048, 512, 1),
        _uib(5, 5, 2048, 512, 1),
        *(_uib(5, 0, 2048, 512, 1) for _ in range(3)),
    ),
)
