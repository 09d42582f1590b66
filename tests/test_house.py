"""The rules of the house that a reader cannot see at one place: who imports whom, what is never used."""

import ast
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
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


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


def test_every_module_says_what_it_is():
    assert [str(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_opencv_is_the_one_with_windows_and_video():
    gui = next(line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:"))
    assert "NONE" not in gui
    assert cv2.VideoCapture and cv2.VideoWriter and cv2.imshow
