"""The summary tool: counted sizes are the papers', or the table says why not; bad input is one line."""

import sys

import pytest

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
    assert [line.split()[1::2] for line in shown.splitlines() if "13.expand" in line] == [["13.expand", "336", "16"]]
    assert run(["cn_k3_s2_c16_nhs ds_k3_s2_c16"], monkeypatch) == 0
    assert "own architecture" in capsys.readouterr().out


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
