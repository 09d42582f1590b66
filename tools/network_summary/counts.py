"""Parameters and multiply-adds of networks, counted here and set beside their papers'."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import backbone
from tools.network_summary.published import PUBLISHED, Published


def count(model: nn.Module, size: int) -> tuple[float, float]:
    """(parameters, MACs) of a model on the meta device for one square image, in millions."""
    macs = count_macs(model, (size, size))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6, macs / 1e6


def count_macs(model: nn.Module, size_hw: tuple[int, int]) -> float:
    """The MACs of a model on the meta device for one image of (height, width)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, *size_hw, device="meta"))
    return counter.get_total_flops() / 2


def compare(width: float | None = None) -> list[tuple[Published, float, float]]:
    """Published rows with (parameters, MACs) as counted here, then the architectures that no paper counts.

    With a width: every architecture at that width, beside its paper's figures where that prints them.

    Raises:
        InputError: the width is not above 0 and finite.
    """
    published = [row for row in PUBLISHED if width in (None, row.width)]
    counted = {row.name for row in published}
    others = [
        Published(name, 1.0 if width is None else width, 224, None, None, "")
        for name in backbone.names()
        if name not in counted
    ]
    rows = []
    for row in (*published, *others):
        with torch.device("meta"):
            model = backbone.classifier(row.name, width=row.width)
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
