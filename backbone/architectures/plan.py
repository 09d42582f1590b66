"""Every architecture by name, and its plan: all channels, strides and taps at a width, tail and output stride."""

from typing import NamedTuple

from backbone.architectures import efficientnet_lite, mobilenets, searched
from backbone.architectures.rows import Architecture, Row, Squeeze, round_channels

ARCHITECTURES = {
    "chamnet_a": searched.CHAMNET_A,
    "chamnet_b": searched.CHAMNET_B,
    "chamnet_c": searched.CHAMNET_C,
    "chamnet_d": searched.CHAMNET_D,
    "chamnet_e": searched.CHAMNET_E,
    "chamnet_f": searched.CHAMNET_F,
    "chamnet_v1": searched.CHAMNET_V1,
    "chamnet_v2": searched.CHAMNET_V2,
    "efficientnet_lite0": efficientnet_lite.LITE_0,
    "efficientnet_lite1": efficientnet_lite.LITE_1,
    "efficientnet_lite2": efficientnet_lite.LITE_2,
    "efficientnet_lite3": efficientnet_lite.LITE_3,
    "efficientnet_lite4": efficientnet_lite.LITE_4,
    "fbnet_c": searched.FBNET_C,
    "mnasnet_a1": searched.MNASNET_A1,
    "mnasnet_b1": searched.MNASNET_B1,
    "mnasnet_small": searched.MNASNET_SMALL,
    "mobilenet_v1": mobilenets.V1,
    "mobilenet_v1_last": mobilenets.V1_LAST,
    "mobilenet_v2": mobilenets.V2,
    "mobilenet_v2_depth12": mobilenets.V2_DEPTH_12,
    "mobilenet_v2_depth14": mobilenets.V2_DEPTH_14,
    "mobilenet_v3_large": mobilenets.V3_LARGE,
    "mobilenet_v3_large_depth12": mobilenets.V3_LARGE_DEPTH_12,
    "mobilenet_v3_large_minimalistic": mobilenets.V3_LARGE_MINIMALISTIC,
    "mobilenet_v3_large_randl": mobilenets.V3_LARGE_RANDL,
    "mobilenet_v3_large_rw": mobilenets.V3_LARGE_RW,
    "mobilenet_v3_large_se_before_activation": mobilenets.V3_LARGE_SE_BEFORE_ACTIVATION,
    "mobilenet_v3_small": mobilenets.V3_SMALL,
    "mobilenet_v3_small_minimalistic": mobilenets.V3_SMALL_MINIMALISTIC,
    "mobilenet_v3_small_paddle": mobilenets.V3_SMALL_PADDLE,
    "mobilenet_v3_small_se_before_activation": mobilenets.V3_SMALL_SE_BEFORE_ACTIVATION,
    "mobilenet_v4_conv_large": mobilenets.V4_CONV_LARGE,
    "mobilenet_v4_conv_medium": mobilenets.V4_CONV_MEDIUM,
    "mobilenet_v4_conv_small": mobilenets.V4_CONV_SMALL,
    "single_path_nas": searched.SINGLE_PATH_NAS,
}


class Feature(NamedTuple):
    """What a tap gives: its channels, and its stride relative to the input."""

    channels: int
    stride: int


class BlockPlan(NamedTuple):
    """A block as it is built: a row of the table at the network's width and output stride."""

    in_channels: int
    expanded: int
    out: int
    start_kernel: int  # depthwise convolution before the expansion; 0: none
    expand_kernel: int  # 1, k in a fused block; 0: no expansion
    depthwise_kernel: int  # 0: none
    stride: int
    dilation: int
    squeezed: int  # 0: no squeeze-and-excite
    squeeze: Squeeze
    nonlinearity: str
    project_activated: bool
    residual: bool

    @property
    def points(self) -> tuple[str, ...]:
        """The values that can be tapped, in the order in which they are computed."""
        start = ("start",) if self.start_kernel else ()
        depthwise = ("depthwise",) if self.depthwise_kernel else ()
        return (*start, "expand", *depthwise, "out")

    @property
    def se_before_activation(self) -> bool:
        """Whether squeeze-and-excite comes before the depthwise convolution's activation."""
        return bool(self.squeezed and self.expand_kernel) and self.squeeze.before_activation

    @property
    def strided_point(self) -> str:
        """The point whose convolution carries the block's stride."""
        if self.depthwise_kernel:
            return "depthwise"
        return "expand" if self.expand_kernel > 1 else "start"


class Plan(NamedTuple):
    """A network's blocks and channels; `features` declares every tap."""

    blocks: tuple[BlockPlan, ...]
    features: dict[str, Feature]
    last: int  # 0: no last convolution
    hidden: int  # 0: no hidden layer


def tails(architecture: Architecture) -> list[str]:
    """The names of an architecture's last stages, "full" first."""
    return ["full", *(name for name, _ in architecture.tails)]


def with_tail(architecture: Architecture, tail: str) -> Architecture:
    """The architecture with its last bottlenecks and last convolution replaced by those of the named tail."""
    if tail == "full":
        return architecture
    chosen = dict(architecture.tails)[tail]
    kept = len(architecture.rows) - len(chosen.out)
    changed = [
        row._replace(expanded=expanded, out=out)
        for row, expanded, out in zip(architecture.rows[kept:], chosen.expanded, chosen.out, strict=True)
    ]
    return architecture._replace(rows=(*architecture.rows[:kept], *changed), last=chosen.last)


def plan(
    architecture: Architecture,
    *,
    width: float = 1.0,
    output_stride: int = 32,
    dilate_strided_block: bool = False,
    fixed_stem: bool = False,
) -> Plan:
    """The table at a width: channels rounded to multiples of 8, strides beyond `output_stride` turned into dilations.

    As in the official code, an expansion is a multiple of its block's rounded input; at widths other than 1 it may
    differ from the table's number times the width.

    Arguments:
        dilate_strided_block, fixed_stem: as for `network.create`.
    """
    channels = architecture.stem if fixed_stem else round_channels(architecture.stem * width)
    unscaled = architecture.stem  # channels of the block's input at width 1
    features = {"stem": Feature(channels, 2)}
    blocks = []
    stride, dilation = 2, 1
    for number, row in enumerate(architecture.rows, start=1):
        step, block_dilation = row.stride, dilation
        if stride * step > output_stride:
            dilation *= step
            step = 1
            # To compute what the strided network does, only the following blocks are dilated; torchvision dilates this
            # one too.
            block_dilation = dilation if dilate_strided_block else block_dilation
        block = _block(row, architecture.squeeze, channels, unscaled, width)
        block = block._replace(stride=step, dilation=block_dilation)
        for point in block.points:
            if point == block.strided_point:
                stride *= step
            point_channels = {"start": block.in_channels, "out": block.out}.get(point, block.expanded)
            features[f"{number}.{point}"] = Feature(point_channels, stride)
        blocks.append(block)
        channels, unscaled = block.out, row.out
    last = _layer(architecture.last, architecture.last_width, width)
    features["last"] = Feature(last or channels, stride)
    return Plan(tuple(blocks), features, last, _layer(architecture.hidden, architecture.hidden_width, width))


def _block(row: Row, squeeze: Squeeze, in_channels: int, unscaled: int, width: float) -> BlockPlan:
    fused, separable = row.kind in ("er", "era"), row.kind in ("ds", "dsa")
    out = round_channels(row.out * width)
    if separable:
        expanded = in_channels
    elif row.kind == "era":  # two plain convolutions, each scaled by itself
        expanded = round_channels(row.expanded * width)
    else:
        expanded = round_channels(in_channels * row.expanded / unscaled)
    squeezed = 0
    if row.squeeze_excite:
        of = {"expanded": expanded, "input": in_channels}[squeeze.of]
        squeezed = round_channels(of * row.squeeze_excite, squeeze.divisor)
    activated = row.kind in ("dsa", "era")
    return BlockPlan(
        in_channels=in_channels,
        expanded=expanded,
        out=out,
        start_kernel=row.start,
        expand_kernel=row.kernel if fused else 0 if separable else 1,
        depthwise_kernel=0 if fused else row.kernel,
        stride=row.stride,
        dilation=1,
        squeezed=squeezed,
        squeeze=squeeze,
        nonlinearity=row.nonlinearity,
        project_activated=activated,
        residual=row.skip and not activated and row.stride == 1 and in_channels == out,
    )


def _layer(channels: int, rule: str, width: float) -> int:
    """Channels of the last or hidden layer at a width."""
    factor = {"scaled": width, "grows": max(1.0, width), "fixed": 1.0}[rule]
    return round_channels(channels * factor) if channels else 0
