"""The rules of the house that no single module shows: who imports whom, what is never used, how things are written."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "backbone": {"backbone"},
    "seg": {"backbone", "seg"},
    "det": {"backbone", "det"},
    "tools": {"backbone", "seg", "det", "tools"},
}
LAZY = ("backbone", "seg", "det")
LIGHT = ("backbone.errors", "seg", "det", "tools.io.console", "tools.io.files", "tools.run.config")
HEAVY = ("torch", "torchvision", "albumentations", "cv2", "matplotlib", "segmentation_models_pytorch")
SECTIONS = {"Arguments", "Attributes", "Returns", "Raises"}
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    ours = {name.split(".")[0] for name in imported(path)} & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_crashes_or_runs_code_on_bad_files(path):
    names = imported(path)
    assert not any(name.startswith(("torchvision.io", "pickle")) for name in names)
    assert "weights_only=False" not in path.read_text()


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_begins_with_one_line_that_says_what_it_is(path):
    first, *rest = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")
    assert first.endswith(".") and (not rest or rest[0] == "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_have_the_same_sections_everywhere(path):
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    docstrings = [
        ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)
    ]
    found = {name for text in docstrings for name in re.findall(r"^([A-Z]\w*):$", text, re.MULTILINE)}
    assert found <= SECTIONS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_color_has_one_spelling(path):
    assert "colour" not in path.read_text().lower()


def test_tests_lie_as_the_packages_do():
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS} - {Path("."), Path("builders")}
    assert [str(folder) for folder in folders if not (ROOT / folder).is_dir()] == []


def test_a_missing_oracle_fails_where_changes_are_judged(tmp_path):
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_it():\n    pytest.importorskip('no_such_package')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.builders.skips", "-c", os.devnull, str(tmp_path)]
    outcomes = []
    for environment in ({"CI": "true"}, {"CI": ""}):
        done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        outcomes.append(done.stdout.splitlines()[-1])
    assert outcomes[0].startswith("1 failed") and outcomes[1].startswith("1 skipped")


def test_what_a_command_line_imports_is_light():
    """--help and the refusal of a wrong option come within a second; torch alone takes longer."""
    code = f"import sys, {', '.join(LIGHT)}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "\n"


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_package_gives_what_it_lists(package):
    module = importlib.import_module(package)
    [block] = [node for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.If)]
    checked = {alias.name: f"{package}.{module._MODULES[alias.name]}" for node in block.body for alias in node.names}
    assert checked == {alias.name: node.module for node in block.body for alias in node.names}  # type checkers' view
    assert set(module.__all__) == set(checked) == set(module._MODULES)
    for name in module.__all__:
        assert hasattr(module, name) and name in dir(module)
        # Importing a submodule sets it on its package, where it would hide a function of the same name.
        assert not (Path(module.__file__).parent / f"{name}.py").exists()
    with pytest.raises(AttributeError, match="has no attribute 'create_all'"):
        _ = module.create_all


def test_opencv_is_the_one_with_windows_and_video():
    gui = next(line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:"))
    assert "NONE" not in gui
    assert cv2.VideoCapture and cv2.VideoWriter and cv2.imshow


def test_tests_share_by_their_builders_only():
    for path in (ROOT / "tests").rglob("*.py"):
        shared = {name for name in imported(path) if name.startswith("tests.")}
        assert {name for name in shared if not name.startswith("tests.builders")} == set(), path
