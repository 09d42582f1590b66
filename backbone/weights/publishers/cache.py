"""Where fetched weights lie: torch's folder for what torch would fetch, our own for archives."""

import os
from pathlib import Path

VARIABLE = "TAPROOT_CACHE"
"""Environment variable: the folder of archives; by default `taproot` in the user's cache folder."""


def ours() -> Path:
    """The folder that what is unpacked from archives lies in."""
    return Path(os.environ.get(VARIABLE) or _user() / "taproot").expanduser()


def torchs() -> Path:
    """The folder that torch.hub keeps downloaded files in, as long as it is set by the environment (TORCH_HOME)."""
    return Path(os.environ.get("TORCH_HOME") or _user() / "torch").expanduser() / "hub" / "checkpoints"


def _user() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
