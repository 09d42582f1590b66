"""The summary tool: counted sizes are the papers', or the table says why not; bad input is one line."""

import sys

import pytest
import torch

import backbone
from tools import console, summary


def test_parameters_and_macs_are_the_papers_or_the_table_says_why_not():
    rows = summary.compare()
    assert {row.name for row, _, _ in rows} == set(backbone.names())
    for row, parameters, macs in rows:
        if row.parameters is not None and not row.note:
            assert abs(parameters - row.parameters) < 0.105, row  # 3.505 M is printed as 3.4
        if row.macs is not None and not row.note:
            assert abs(macs / row.macs - 1) < 0.03, row


def test_one_width_shows_every_architecture():
    rows = summary.compare(0.75)
    assert sorted(row.name for row, _, _ in rows) == backbone.names()
    assert next(row.macs for row, _, _ in rows if row.name == "mobilenet_v3_large") == 155


def run(arguments: list[str], monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["summary", *arguments])
    with pytest.raises(SystemExit) as ended:
        console.run(summary.main)
    return ended.value.code


def test_one_network_is_shown_with_its_taps_and_strings(monkeypatch, capsys):
    assert run(["mobilenet_v3_large", "--tail", "segmentation", "--output-stride", "16"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "ir_r3_k5_s2_e3_c40_se0.25_nre" in shown
    row = next(line.split()[1::2] for line in shown.splitlines() if "13.expand" in line)
    assert row[:3] == ["13.expand", "336", "16"]
    assert run(["cn_k3_s2_c16_nhs ds_k3_s2_c16"], monkeypatch) == 0
    assert "own architecture" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v4_conv_small"])
@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize(("padding", "size"), [("symmetric", 96), ("same", 96), ("same", 97)])
def test_receptive_fields_are_where_gradients_arrive(name, output_stride, padding, size):
    taps = ("stem", "2.out", "4.depthwise", "6.expand")
    net = backbone.create(name, taps=taps, padding=padding, output_stride=output_stride, norm_eps=1e-3).eval()
    for parameter in net.parameters():
        torch.nn.init.uniform_(parameter, 0.01, 0.02)  # positive: no activation cuts a path
    images = torch.ones(1, 3, size, size, requires_grad=True)
    fields = summary.receptive_fields(net.plan, padding=padding, size=size)
    for tap, values in net(images).items():
        field, first = fields[tap]
        place = values.shape[-1] // 2
        (gradient,) = torch.autograd.grad(values[0, :, place, place].sum(), images, retain_graph=True)
        (seen,) = gradient[0].sum((0, 1)).nonzero(as_tuple=True)
        centre = first + place * net.features[tap].stride
        expected = (max(0, centre - (field - 1) / 2), min(size - 1, centre + (field - 1) / 2))
        assert (seen.min(), seen.max()) == expected, tap


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet"], "mobilenet_v3_small"),
        (["ds_k3_c17"], "character 8: '17'"),
        (["mobilenet_v1", "--size", "0"], "--size 0 must be"),
        (["mobilenet_v1", "--width", "-1"], "width -1.0 must be above 0"),
        (["mobilenet_v1", "--tail", "segmentation"], "valid: full"),
    ],
)
def test_bad_input_is_one_line(arguments, message, monkeypatch, capsys):
    assert run(arguments, monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
