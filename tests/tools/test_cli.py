"""The command `taproot`, and that the light commands answer --help and refusals without loading heavy libraries."""

import ast
import re
from pathlib import Path

import pytest

from backbone.errors import InputError
from tests.builders.commands import ROOT, run_fresh
from tools import cli
from tools.io import shipped

LISTED = [module for modules in cli.GROUPS.values() for module in modules]


def test_every_command_is_listed_once_and_has_a_phrase():
    commands = set()
    for path in (ROOT / "tools").glob("*.py"):
        functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        if "main" in functions and path.stem != "cli":
            commands.add(path.stem)
    assert sorted(LISTED) == sorted(commands)
    for module in LISTED:
        assert re.fullmatch(r"[A-Z].*\.", cli.phrase(module)), module


def test_help_lists_all_commands_in_a_narrow_terminal_too(monkeypatch):
    for columns in (60, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = cli.overview()
        assert max(map(len, shown.splitlines())) <= min(columns, 120)
        for module in LISTED:
            assert f"\n  {module.replace('_', '-')} " in shown


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"]])
def test_the_overview_and_the_version_import_nothing_heavy(arguments):
    code, output, errors, imported = run_fresh(*arguments)
    assert (code, errors, imported) == (0, "", set())
    assert output.startswith("taproot " if arguments == ["--version"] else "usage: taproot")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian-seg", "did you mean train-seg?"),
        ("train_sgd", "did you mean train-seg?"),
        ("foretell", "no such command"),
        ("--verison", "unknown option"),
        ("../cli", "no such command"),
    ],
)
def test_an_unknown_command_is_one_line_and_exits_2(command, message):
    code, output, errors, imported = run_fresh(command)
    assert (code, output, imported) == (2, "", set())
    assert message in errors and command in errors and "\n" not in errors


def test_a_command_gets_its_arguments_under_both_spellings_and_former_names_work():
    for name in ("make-demo-data", "make_demo_data"):
        with pytest.raises(InputError, match="--seed -3"):
            cli.dispatch([name, "--out", "nowhere", "--seed", "-3"])
    for former in cli.FORMER_NAMES:
        assert cli.find_command(former.replace("_", "-")) == former


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["video", "--help"], 0, "--weights"),
        (["video", "--weights", "x", "--source", "y"], 2, "--output"),
        (["video", "--weights", "x", "--source", "y", "--output", "z.mp4", "--engine", "warp"], 2, "warp"),
        (["video", "--weights", "x", "--source", "y", "--output", "z.mp4", "--fps", "0"], 2, "--fps 0"),
        (["predict", "--help"], 0, "--skip-damaged"),
        (["predict", "--weights", "x", "--source", "y", "--output", "z", "--save", "labels,lables"], 2, "lables"),
        (["predict", "--weights", "x", "--source", "y", "--output", "z", "--batch", "0"], 2, "--batch 0"),
        (["summary", "--help"], 0, "--output-stride"),
        (["summary", "resnet"], 2, "mobilenet_v3_large"),
        (["summary", "ds_k3_c17"], 2, "character 8"),
        (["summary", "mobilenet_v1", "--tail", "detection"], 2, "valid: full"),
        (["summary", "--padding", "valid"], 2, "symmetric"),
        (["benchmark", "--help"], 0, "label-map"),
        (["benchmark", "backbone", "--names", "resnet"], 2, "mobilenet_v3_small"),
        (["benchmark", "postprocess", "--rounds", "0"], 2, "--rounds"),
        (["demo", "--help"], 0, "--short"),
        (["demo", "--shrot"], 2, "--shrot"),
        (["make-demo-data", "--help"], 0, "--clip-frames"),
        (["make-demo-data", "--out", "nowhere", "--height", "97"], 2, "--height 97"),
    ],
)
def test_help_and_refusals_come_before_anything_heavy_is_imported(arguments, code, message):
    ended, output, errors, imported = run_fresh(*arguments)
    assert (ended, imported) == (code, set())
    assert message in output + errors
    assert "Traceback" not in errors


def test_shipped_configs_are_found_from_any_folder_and_own_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = Path("configs/demo/seg.yaml")
    assert shipped.find_config(name) == ROOT / name
    for other in ("configs/none.yaml", "demo/seg.yaml", "configs", "README.md"):
        assert shipped.find_config(Path(other)) == Path(other)
    name.parent.mkdir(parents=True)
    name.touch()
    assert shipped.find_config(name) == name
