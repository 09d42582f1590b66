"""The folder of built runtime files, ~/.cache/taproot/engines: building one takes seconds, finding it milliseconds.

XDG_CACHE_HOME moves it. An entry is a folder named by a hash of all that its files depend on: the weights, the model's
description, the size of the input, the versions of the packages and our own code. It appears by renaming, whole, so
that processes can share the folder; beyond MOST_ENTRIES the ones not used for the longest time are deleted.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tools.io.shipped import ROOT

MOST_ENTRIES = 32
"""About half a gigabyte of the usual networks."""
CODE = ("backbone", "seg", "det", "tools/exporting", "tools/joint")
"""The folders whose code makes the files."""


def cache_folder() -> Path:
    """Where built files are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taproot" / "engines"


def entry_key(model: nn.Module, settings: Mapping[str, Any]) -> str:
    """The name of the entry for a model's weights and all else that its files depend on.

    Arguments:
        settings: as JSON can hold them.
    """
    digest = hashlib.sha256(json.dumps([settings, code_hash()], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:32]


@cache
def code_hash() -> str:
    """A hash of the code that makes the files."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def find_or_build(key: str, build: Callable[[Path], object], *, again: bool = False) -> Path:
    """The folder of an entry, built first where it is not there yet.

    Arguments:
        build: writes the entry's files into a folder.
        again: the entry's files have proved damaged: build them anew.
    """
    folder = cache_folder()
    entry = folder / key
    if again:
        shutil.rmtree(entry, ignore_errors=True)
    if entry.is_dir():
        os.utime(entry)
        return entry
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="part-", dir=folder))
    except OSError:  # a home that cannot be written: build for this process alone
        folder, entry = None, None
        fresh = _own_folder()
    try:
        build(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if folder is None or entry is None:
        return fresh
    try:
        fresh.rename(entry)
    except OSError:  # another process was first
        shutil.rmtree(fresh, ignore_errors=True)
    _delete_oldest(folder)
    return entry


def _own_folder() -> Path:
    """A folder that is deleted when the process ends."""
    import atexit

    fresh = tempfile.mkdtemp(prefix="taproot-")
    atexit.register(shutil.rmtree, fresh, ignore_errors=True)
    return Path(fresh)


def _delete_oldest(folder: Path) -> None:
    """Keeps MOST_ENTRIES; parts that killed processes left count among them."""
    used = []
    for entry in folder.iterdir():
        try:
            used.append((entry.stat().st_mtime, entry))
        except FileNotFoundError:  # another process deleted it
            continue
    for _, entry in sorted(used)[:-MOST_ENTRIES]:
        shutil.rmtree(entry, ignore_errors=True)
