"""The page for contributors names tests that there are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_tests_that_faults_have_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [line for line in text.split("## Faults and their tests")[1].splitlines() if line.startswith("| ")][1:]
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(rows) > 20 and all("::test_" in row for row in rows) and text.count("::") == len(named)
    defined = {
        file: {node.name for node in ast.parse((ROOT / "tests" / file).read_text()).body if hasattr(node, "name")}
        for file, _ in named
    }
    assert [f"{file}::{name}" for file, name in named if name not in defined[file]] == []
