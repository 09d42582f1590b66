"""A pytest hook: in continuous integration, a missing optional package or browser fails the tests that need it."""

import os
from collections.abc import Generator

import pytest

from tests.builders.chromium import MISSING as NO_CHROMIUM
from tests.builders.page_runtime import MISSING as NO_RUNTIME


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns the skip of `pytest.importorskip`, or for want of a browser, into a failure where the variable CI is set.

    Locally an optional oracle may be missing; where changes are judged, a skipped comparison would go unnoticed.
    """
    report = yield
    if os.environ.get("CI") and report.skipped:
        if "could not import" in str(report.longrepr):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: {report.longrepr[2]}; install the extras dev and fast-eval"
        elif any(reason in str(report.longrepr) for reason in (NO_CHROMIUM, NO_RUNTIME)):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: {report.longrepr[2]}"
    return report
