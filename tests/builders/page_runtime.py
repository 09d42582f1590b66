"""ONNX Runtime for browsers, where it lies in the cache already: tests fetch nothing."""

from pathlib import Path

import pytest

from backbone.weights.publishers import cache
from tools.browsing.runtime import FILES, PACKAGE, VERSION

MISSING = "onnxruntime-web is not in the cache"
"""How the reason of a skip begins that must not happen where changes are judged."""


def cached_runtime() -> Path:
    """The folder of the runtime's files; skips the test where they have not been fetched."""
    folder = cache.ours() / f"{PACKAGE}-{VERSION}"
    if not all((folder / name).is_file() for name in FILES):
        pytest.skip(f"{MISSING}; run make browser-runtime, which needs npm")
    return folder
