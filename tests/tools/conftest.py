"""One finished training of each task, for all tests of the tools."""

import pytest

from tests.builders.runs import command
from tools.run import loop


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory):
    """One uninterrupted run of each task."""
    runs = {}
    for task in ("seg", "det"):
        runs[task] = tmp_path_factory.mktemp(task) / "run"
        main, arguments = command(task, world, runs[task])
        assert main(arguments) == 0
    return runs


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Runs draw no curves, which takes as long as the six steps of a small one; those of `finished` do."""
    monkeypatch.setattr(loop, "draw_curves", lambda log, picture: None)
