"""The summary tool: counted sizes are the papers', or the table says why not; bad input is one line."""

import math

import pytest
import torch

import backbone
import det
import seg
from tests.builders.exported import SIZE, make_model, save
from tests.builders.joint import make_joint, save_joint
from tools import summary
from tools.io import console
from tools.joint.network import create
from tools.network_summary.counts import compare, count_macs
from tools.network_summary.published import PUBLISHED, Published
from tools.network_summary.taps import receptive_fields


def folded(row: Published, millions: float) -> float:
    """The count with norms as one vector of channels instead of two."""
    with torch.device("meta"):
        model = backbone.classifier(row.name, width=row.width)
    return millions - sum(m.bias.numel() for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)) / 1e6


def test_parameters_and_macs_are_the_papers_or_the_table_says_why_not():
    rows = compare()
    assert {row.name for row, _, _ in rows} == set(backbone.names())
    differ = []
    for row, parameters, macs in rows:
        counts = (parameters, folded(row, parameters))  # papers count norms either way, and round or cut off
        printed = {digits for n in counts for digits in (round(n, 1), math.floor(10 * n) / 10)}
        fits = row.parameters in {None, *printed} and (row.macs is None or abs(macs / row.macs - 1) < 0.03)
        if not fits:
            differ.append((row.name, row.width))
            assert row.note, row
    assert differ == [
        ("mobilenet_v3_large", 0.35),
        ("mobilenet_v3_small", 0.35),
        ("mobilenet_v3_small_minimalistic", 1.0),
        ("mnasnet_small", 1.0),
        *((f"efficientnet_lite{number}", 1.0) for number in range(5)),
        ("mobilenet_v4_conv_small", 1.0),
        ("mobilenet_v4_conv_medium", 1.0),
    ]


def test_every_row_of_the_papers_tables_of_widths_and_resolutions_is_there():
    """1905.02244, table 9: (width, resolution) -> multiply-adds, parameters, in millions; None: not printed again."""
    large = {(1.25, 224): (356, 7.5), (1.0, 224): (217, 5.4), (0.75, 224): (155, 4.0), (0.5, 224): (69, 2.6)}
    large |= {(0.35, 224): (40, 2.2), (1.0, 256): (282, None), (1.0, 192): (160, None), (1.0, 160): (112, None)}
    large |= {(1.0, 128): (73, None), (1.0, 96): (43, None)}
    small = {(1.25, 224): (91, 3.6), (1.0, 224): (57, 2.5), (0.75, 224): (44, 2.0), (0.5, 224): (21, 1.6)}
    small |= {(0.35, 224): (12, 1.4), (1.0, 256): (74, None), (1.0, 160): (30, None), (1.0, 128): (20, None)}
    small |= {(1.0, 96): (12, None)}
    for name, table in (("mobilenet_v3_large", large), ("mobilenet_v3_small", small)):
        rows = [row for row in PUBLISHED if row.name == name and "9" in row.source.split("table")[1]]
        assert {(row.width, row.size): (row.macs, row.parameters) for row in rows} == table


def test_one_width_shows_every_architecture():
    rows = compare(0.75)
    assert sorted(row.name for row, _, _ in rows) == backbone.names()
    assert next(row.macs for row, _, _ in rows if row.name == "mobilenet_v3_large") == 155


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        console.run(lambda: summary.main(arguments))
    return ended.value.code


def test_one_network_is_shown_with_its_taps_and_strings(capsys):
    assert run(["mobilenet_v3_large", "--tail", "segmentation", "--output-stride", "16"]) == 0
    shown = capsys.readouterr().out
    assert "ir_r3_k5_s2_e3_c40_se0.25_nre" in shown
    row = next(line.split()[1::2] for line in shown.splitlines() if "13.expand" in line)
    assert row[:3] == ["13.expand", "336", "16"]
    assert run(["cn_k3_s2_c16_nhs ds_k3_s2_c16"]) == 0
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
    fields = receptive_fields(net.plan, padding=padding, size=size)
    for tap, values in net(images).items():
        field, first = fields[tap]
        place = values.shape[-1] // 2
        (gradient,) = torch.autograd.grad(values[0, :, place, place].sum(), images, retain_graph=True)
        (seen,) = gradient[0].sum((0, 1)).nonzero(as_tuple=True)
        centre = first + place * net.features[tap].stride
        expected = (max(0, centre - (field - 1) / 2), min(size - 1, centre + (field - 1) / 2))
        assert (seen.min(), seen.max()) == expected, tap


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of a printed table by the first one of their row."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {first: rest for first, *rest in rows}


def test_a_joint_networks_parts_add_up_and_stand_beside_the_models_of_its_heads(capsys):
    arguments = ["mobilenet_v3_small", "--heads", "lraspp", "pico96", "--size", "96", "160"]
    assert run(arguments) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["lraspp"][2] == "3.depthwise: 88, 8; last: 576, 32"
    with torch.device("meta"):
        body = {"backbone": "mobilenet_v3_small", "tail": "full"}
        singles = [seg.create("lraspp", **body, output_stride=32), det.create("pico96", **body)]
        joint = create("mobilenet_v3_small", heads={"segmentation": {}, "detection": {"head": "pico96"}})
    for name, models in {"joint network": [joint], "2 models": singles}.items():
        parameters = sum(parameter.numel() for model in models for parameter in model.parameters())
        macs = sum(count_macs(model, (96, 160)) for model in models)
        assert rows[name][:2] == [f"{parameters / 1e6:.3f}", f"{macs / 1e6:.1f}"], name
    for column, digits in ((0, 3), (1, 1)):
        parts = sum(float(rows[name][column]) for name in ("backbone", "lraspp", "pico96"))
        assert parts == pytest.approx(float(rows["joint network"][column]), abs=2 * 10**-digits)
        share = float(rows["joint network"][column]) / float(rows["2 models"][column])
        assert float(rows["share"][column]) == pytest.approx(share, abs=0.006)


def test_a_joint_networks_file_is_summarised_at_its_detectors_size(tmp_path, capsys):
    path = save_joint(tmp_path / "joint.safetensors", make_joint(lambda model: model))
    assert run([str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"at {SIZE[0]}x{SIZE[1]} (height x width)" in shown and "output_stride 32" in shown
    assert {"segmentation: lraspp", "detection: ssdlite"} <= rows_of(shown).keys()
    assert run([str(path), "--tail", "full"]) == 2
    assert "--tail: stands in the file" in capsys.readouterr().err
    single = save(tmp_path, "segmentation", make_model("segmentation", lambda model: model))
    assert run([str(single)]) == 2
    assert "is a model for segmentation, not a joint network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet"], "mobilenet_v3_small"),
        (["ds_k3_c17"], "character 8: '17'"),
        (["mobilenet_v1", "--size", "0"], "--size 0 must be"),
        (["mobilenet_v1", "--width", "-1"], "width -1.0 must be above 0"),
        (["--width", "inf"], "width inf must be above 0 and finite"),
        (["mobilenet_v1", "--tail", "segmentation"], "valid: full"),
        (["mobilenet_v1", "--size", "64", "96"], "--size 64 96: give one number"),
        (["mobilenet_v1", "--heads", "lraspp"], "--size: is missing"),
        (["mobilenet_v1", "--heads", "lraspp", "lraspp"], "stands twice"),
        (["--heads", "lraspp"], "--heads: needs the name of the backbone"),
        (["mobilenet_v1", "--heads", "deeplabv3", "pico96"], "detection needs 32"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
