"""Where fetched weights lie: torch's folder for what torch would fetch, our own for all else."""

import os
import uuid
from pathlib import Path

from backbone.errors import InputError

VARIABLE = "TAPROOT_CACHE"
"""Environment variable: the folder; by default `taproot` in the user's cache folder."""


def ours() -> Path:
    """The folder that files and unpacked archives lie in."""
    return Path(os.environ.get(VARIABLE) or _user() / "taproot").expanduser()


def torchs() -> Path:
    """The folder that torch.hub keeps downloaded files in, as long as it is set by the environment (TORCH_HOME)."""
    return Path(os.environ.get("TORCH_HOME") or _user() / "torch").expanduser() / "hub" / "checkpoints"


def check_first_digest(name: str, file: Path, digest: str) -> None:
    """Compares a download with the first one on this machine, whose checksum stays in the cache.

    Arguments:
        file: where the file lies or would be put by hand.
        digest: its SHA-256 in hexadecimal digits.
    Raises:
        InputError: it is another file than at the first time.
        OSError: the checksum cannot be written.
    """
    known = file.with_name(f"{file.name}.sha256")
    if not known.is_file():
        temporary = known.with_name(f".{known.name}.{uuid.uuid4().hex[:8]}.part")
        temporary.write_text(digest + "\n")
        os.replace(temporary, known)
    elif (first := known.read_text().strip()) != digest:
        raise InputError(
            f"{name}: the SHA-256 of {file.name} is {digest}, and was {first} when it was first fetched; "
            f"if the new one is to be trusted, remove {known}"
        )


def _user() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
