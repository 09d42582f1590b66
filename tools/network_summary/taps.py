"""One network's taps: channels, strides and receptive fields."""

import math

import torch

import backbone
from backbone.architectures.plan import Plan
from tools.io.console import console, table
from tools.network_summary.counts import count


def receptive_fields(plan: Plan, *, padding: str, size: int) -> dict[str, tuple[int, float]]:
    """The side of each tap's receptive field and where its first value is centred, in input pixels from 0.

    What squeeze-and-excite adds, the mean of the whole map, is left out.

    Arguments:
        padding: "symmetric" or "same".
        size: side of the square input in pixels; where "same" pads depends on it.
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


def describe(name: str, *, width: float, tail: str, output_stride: int, padding: str, size: int) -> None:
    """Prints the size of one network's body, its strings, and its taps with channels, strides and receptive fields.

    Arguments:
        name, width, tail, output_stride, padding: as `backbone.create` takes them.
        size: side of the square input in pixels, at least 32, the stride of the networks.

    Raises:
        InputError: what `backbone.create` raises.
    """
    with torch.device("meta"):
        body = backbone.create(name, width=width, tail=tail, output_stride=output_stride, padding=padding)
        parameters, macs = count(body, size)
    console.print(f"{body.name}, width {width:g}, body of {parameters:.3f} M parameters, {macs:.1f} M MACs at {size}")
    for string in body.definition():
        console.print(f"  {string}")
    fields = receptive_fields(body.plan, padding=padding, size=size)
    rows = [
        [tap, str(feature.channels), str(feature.stride), str(fields[tap][0]), f"{fields[tap][1]:g}"]
        for tap, feature in body.all_features.items()
    ]
    columns = ["tap", "channels", "stride", "receptive field", "first centre"]
    console.print(table("taps, receptive fields in pixels", columns, rows))
