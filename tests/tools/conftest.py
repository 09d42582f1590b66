"""One finished training of each task, for all tests of the tools."""

import pytest

from tests.builders.runs import command


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory):
    """One uninterrupted run of each task."""
    runs = {}
    for task in ("seg", "det"):
        runs[task] = tmp_path_factory.mktemp(task) / "run"
        main, arguments = command(task, world, runs[task])
        assert main(arguments) == 0
    return runs
