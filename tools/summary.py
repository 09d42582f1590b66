"""Prints parameters and MACs of every architecture beside its paper's, or the taps of one network.

python -m tools.summary
python -m tools.summary mobilenet_v3_large --width 0.75
python -m tools.summary mobilenet_v3_small --tail segmentation --output-stride 16
python -m tools.summary "cn_k3_s2_c16_nhs ds_k3_s2_c16 ir_r2_k3_s2_e4_c24 ir_r3_k5_s2_e6_c40_se0.25_nhs"
"""

import argparse
import math
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import backbone as backbones
from backbone import Architecture, InputError
from backbone.architectures.plan import Plan
from tools.io import console


class Published(NamedTuple):
    """A network as a paper counts it."""

    name: str
    width: float
    size: int  # of the square input
    parameters: float | None  # millions; None: not printed there
    macs: float | None  # millions
    source: str
    note: str = ""  # why ours differ by more than the printed digit or 3 %


V3 = "1905.02244 table 9"
V3_TABLE_3 = "1905.02244 table 3"
V3_TABLES = "1905.02244 tables 3, 9"
CHAMNET = "1812.08934, its README"
LITE = "official README"
LITE_NOTE = "MACs counted there with norms and activations, as about three operations a value"
PUBLISHED = (
    Published("mobilenet_v1", 1.0, 224, 4.2, 569, "1704.04861 table 8"),
    Published("mobilenet_v2", 1.0, 224, 3.4, 300, V3_TABLE_3),
    Published("mobilenet_v2", 0.35, 224, 1.6, 59.2, V3_TABLE_3),
    Published("mobilenet_v3_large", 1.25, 224, 7.5, 356, V3),
    Published("mobilenet_v3_large", 1.0, 224, 5.4, 217, V3),
    Published("mobilenet_v3_large", 1.0, 224, 5.4, 219, V3_TABLE_3),
    Published("mobilenet_v3_large", 0.75, 224, 4.0, 155, V3_TABLES),
    Published("mobilenet_v3_large", 0.5, 224, 2.6, 69, V3),
    Published(
        *("mobilenet_v3_large", 0.35, 224, 2.2, 40, V3),
        note="parameters unexplained: counted as at the other widths, and as Small's 1.4",
    ),
    Published("mobilenet_v3_large", 1.0, 256, None, 282, V3),
    Published("mobilenet_v3_large", 1.0, 192, None, 160, V3),
    Published("mobilenet_v3_large", 1.0, 160, None, 112, V3),
    Published("mobilenet_v3_large", 1.0, 128, None, 73, V3),
    Published("mobilenet_v3_large", 1.0, 96, None, 43, V3),
    Published("mobilenet_v3_large_minimalistic", 1.0, 224, 3.9, 209, "official README"),
    Published("mobilenet_v3_small", 1.25, 224, 3.6, 91, V3),
    Published("mobilenet_v3_small", 1.0, 224, 2.5, 57, V3),
    Published("mobilenet_v3_small", 1.0, 224, 2.5, 56, V3_TABLE_3),
    Published("mobilenet_v3_small", 0.75, 224, 2.0, 44, V3_TABLES),
    Published("mobilenet_v3_small", 0.5, 224, 1.6, 21, V3),
    Published("mobilenet_v3_small", 0.35, 224, 1.4, 12, V3, "MACs printed without decimals, cut off"),
    Published("mobilenet_v3_small", 1.0, 256, None, 74, V3),
    Published("mobilenet_v3_small", 1.0, 160, None, 30, V3),
    Published("mobilenet_v3_small", 1.0, 128, None, 20, V3),
    Published("mobilenet_v3_small", 1.0, 96, None, 12, V3),
    Published(
        *("mobilenet_v3_small_minimalistic", 1.0, 224, 2.0, 65, "official README"),
        note="MACs unexplained: the published weights have these shapes",
    ),
    Published("mnasnet_a1", 1.0, 224, 3.9, 315, V3_TABLE_3),
    Published(
        *("mnasnet_small", 1.0, 224, 1.9, 65.1, V3_TABLE_3),
        note="the paper prints no layers; these are the official code's",
    ),
    Published("efficientnet_lite0", 1.0, 224, 4.7, 407, LITE, LITE_NOTE),
    Published("efficientnet_lite1", 1.0, 240, 5.4, 631, LITE, LITE_NOTE),
    Published("efficientnet_lite2", 1.0, 260, 6.1, 899, LITE, LITE_NOTE),
    Published("efficientnet_lite3", 1.0, 280, 8.2, 1440, LITE, LITE_NOTE),
    Published("efficientnet_lite4", 1.0, 300, 13.0, 2640, LITE, LITE_NOTE),
    Published("fbnet_c", 1.0, 224, 5.5, 375, "1812.03443"),
    Published("chamnet_a", 1.0, 224, 6.2, 552.9, CHAMNET),
    Published(*("chamnet_b", 1.0, 192, 5.2, 323.3, CHAMNET), note="one stage has 92 channels there, here 96"),
    Published("chamnet_c", 1.0, 224, 3.4, 211.6, CHAMNET),
    Published("chamnet_d", 1.0, 192, 3.3, 120.0, CHAMNET),
    Published("chamnet_e", 1.0, 160, 2.3, 53.7, CHAMNET),
    Published("chamnet_f", 1.0, 128, 2.0, 30.8, CHAMNET),
    Published(
        *("mobilenet_v4_conv_small", 1.0, 224, 3.8, 200, "2404.10518"),
        note="MACs printed as 0.2 G",
    ),
    Published(
        *("mobilenet_v4_conv_medium", 1.0, 256, 9.2, 1000, "2404.10518"),
        note="MACs printed as 1.0 G; parameters unexplained: the published weights have these shapes",
    ),
)


def count(model: nn.Module, size: int) -> tuple[float, float]:
    """(parameters, MACs) of a model on the meta device for one square image, in millions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6, counter.get_total_flops() / 2e6


def compare(width: float | None = None) -> list[tuple[Published, float, float]]:
    """Published rows with (parameters, MACs) as counted here, then the architectures that no paper counts.

    With a width: every architecture at that width, beside its paper's figures where that prints them.
    """
    published = [row for row in PUBLISHED if width in (None, row.width)]
    counted = {row.name for row in published}
    others = [
        Published(name, 1.0 if width is None else width, 224, None, None, "")
        for name in backbones.names()
        if name not in counted
    ]
    rows = []
    for row in (*published, *others):
        with torch.device("meta"):
            model = backbones.classifier(row.name, width=row.width)
        rows.append((row, *count(model, row.size)))
    return rows


def comparison(width: float | None) -> list[list[str]]:
    """Rows of text: network, width, size, parameters and MACs here and in its paper, source and remark."""

    def shown(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    return [
        [
            row.name,
            f"{row.width:g}",
            str(row.size),
            shown(parameters, 2),
            shown(row.parameters, 1),
            shown(macs, 1),
            shown(row.macs, 0),
            f"{100 * (macs / row.macs - 1):+.1f}" if row.macs else "",
            f"{row.source}; {row.note}" if row.note else row.source,
        ]
        for row, parameters, macs in compare(width)
    ]


def receptive_fields(plan: Plan, *, padding: str, size: int) -> dict[str, tuple[int, float]]:
    """The side of each tap's receptive field and where its first value is centred, in input pixels from 0.

    What squeeze-and-excite adds, the mean of the whole map, is left out.
    """
    side, field, jump, centre = size, 1, 1, 0.0

    def convolve(kernel: int, stride: int, dilation: int) -> tuple[int, float]:
        nonlocal side, field, jump, centre
        reach = dilation * (kernel - 1)
        out = math.ceil(side / stride)
        before = max((out - 1) * stride + reach + 1 - side, 0) // 2 if padding == "same" else reach // 2
        field += reach * jump
        centre += (reach / 2 - before) * jump
        side, jump = out, jump * stride
        return field, centre

    found = {"stem": convolve(3, 2, 1)}
    for number, block in enumerate(plan.blocks, start=1):
        kernels = {"start": block.start_kernel, "expand": block.expand_kernel, "depthwise": block.depthwise_kernel}
        for point in block.points:
            stride = block.stride if point == block.strided_point else 1
            found[f"{number}.{point}"] = convolve(kernels.get(point) or 1, stride, block.dilation)
    return found | {"last": (field, centre)}


def describe(name: str | Architecture, *, width: float, tail: str, output_stride: int, padding: str, size: int) -> None:
    """Prints the size of one network's body, its strings, and its taps with channels, strides and receptive fields.

    Raises:
        InputError: what `backbone.create` raises, and an input of fewer pixels than the network's stride.
    """
    if size < 32:
        raise InputError(f"--size {size} must be at least 32, the stride of the networks")
    with torch.device("meta"):
        body = backbones.create(name, width=width, tail=tail, output_stride=output_stride, padding=padding)
        parameters, macs = count(body, size)
    console.console.print(
        f"{body.name}, width {width:g}, body of {parameters:.3f} M parameters, {macs:.1f} M MACs at {size}"
    )
    for string in body.definition():
        console.console.print(f"  {string}")
    fields = receptive_fields(body.plan, padding=padding, size=size)
    rows = [
        [tap, str(feature.channels), str(feature.stride), str(fields[tap][0]), f"{fields[tap][1]:g}"]
        for tap, feature in body.all_features.items()
    ]
    columns = ["tap", "channels", "stride", "receptive field", "first centre"]
    console.console.print(console.table("taps, receptive fields in pixels", columns, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="an architecture, or one in strings; without it all are compared")
    parser.add_argument("--width", type=float, help="multiplies the channels (default 1; without a name, the papers')")
    parser.add_argument("--tail", default="full", help="full, detection or segmentation (MobileNetV3)")
    parser.add_argument("--output-stride", type=int, default=32, help="8, 16 or 32 (default)")
    parser.add_argument("--padding", default="symmetric", help="symmetric (default), or same as TensorFlow pads")
    parser.add_argument(
        "--size", type=int, default=224, help="side of the square input whose MACs are counted (default 224)"
    )
    arguments = parser.parse_args()
    if arguments.name is None:
        columns = ["network", "width", "size", "M params", "paper", "M MACs", "paper", "%", "source (arXiv)"]
        console.console.print(
            console.table("parameters and multiply-adds of the classifiers", columns, comparison(arguments.width))
        )
        return
    describe(
        arguments.name,
        width=1.0 if arguments.width is None else arguments.width,
        tail=arguments.tail,
        output_stride=arguments.output_stride,
        padding=arguments.padding,
        size=arguments.size,
    )


if __name__ == "__main__":
    console.run(main)
