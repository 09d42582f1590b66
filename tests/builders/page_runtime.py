"""ONNX Runtime for browsers, where it lies in the cache already: tests fetch nothing."""

from pathlib import Path

import pytest

from tools.browsing.runtime import PACKAGE, is_complete, kept_folder

MISSING = f"missing: {PACKAGE}"
"""How the reason of a skip begins that must not happen where changes are judged."""


def cached_runtime() -> Path:
    """The folder of the runtime's files; skips the test where they have not been fetched."""
    if not is_complete(kept_folder()):
        pytest.skip(f"{MISSING}; run make browser-runtime, which needs npm")
    return kept_folder()
