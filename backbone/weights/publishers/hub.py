"""Hugging Face's hub by huggingface_hub: its cache, and its variables (HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT)."""

import hashlib
import re
from pathlib import Path
from types import ModuleType

from backbone.errors import InputError
from backbone.weights.publishers.download import LIMIT

FILE = "model.safetensors"
CONFIG = "config.json"
"""timm's description of the network and of the images that it expects."""
NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w-][\w./-]*))?")
SHA256 = re.compile(r"[0-9a-f]{64}")


def find(name: str) -> Path | None:
    """The file in the hub's cache, None if it is not there; `name` is `timm/NETWORK` or `hub/OWNER/REPOSITORY`.

    Either may end in @REVISION, a branch, tag or commit; by default it is main, as it was when it was fetched. The
    cache is read without the library's own function, whose import takes a quarter of a second.

    Raises:
        InputError: the name is not of this form, or huggingface_hub is not installed.
    """
    repository, revision = _parsed(name)
    folder = Path(_constants(name).HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    path = folder / "snapshots" / commit / FILE
    return path if path.is_file() else None


def fetch(name: str) -> Path:
    """Downloads the file, of timm's also the config.json beside it.

    Raises:
        InputError: huggingface_hub is not installed or does not get it, or it is damaged or too large.
    """
    constants = _constants(name)
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

    repository, revision = _parsed(name)
    address = hf_hub_url(repository, FILE, revision=revision, endpoint=constants.ENDPOINT)
    try:
        size = get_hf_file_metadata(address).size
        if size is not None and size > LIMIT:
            raise InputError(f"{name}: {address} has {size} bytes, more than the {LIMIT} allowed; give a smaller one")
        if name.startswith("timm/"):
            # It comes first, so that weights that are here have theirs; both are of the commit that is main now.
            revision = Path(hf_hub_download(repository, CONFIG, revision=revision)).parent.name
        path = Path(hf_hub_download(repository, FILE, revision=revision))
    except InputError:
        raise
    except (OSError, ValueError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage] - httpx's
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise InputError(
            f"{name}: {FILE} is not on this machine and did not arrive from {address} ({reason}); fetch it by other "
            f"means and give its path, with {CONFIG} beside it, or copy models--{repository.replace('/', '--')} from "
            f"another machine's cache into {constants.HF_HUB_CACHE}"
        ) from error
    _check(name, path, address)
    return path


def _check(name: str, path: Path, address: str) -> None:
    """Large files are kept under their SHA-256, which the library trusts to have come so."""
    blob = path.resolve()
    if not SHA256.fullmatch(blob.name):
        return
    with open(blob, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise InputError(
            f"{name}: {FILE} from {address} has the SHA-256 {digest[:8]}…, not {blob.name[:8]}…; "
            "it was removed, fetch it again"
        )


def _parsed(name: str) -> tuple[str, str]:
    """(repository, revision)"""
    found = NAME.fullmatch(name.removeprefix("hub/"))
    revision = (found and found["revision"]) or "main"
    if found is None or ".." in revision:
        raise InputError(f"{name}: must be timm/NETWORK or hub/OWNER/REPOSITORY, either with @REVISION behind it")
    return found["repository"], revision


def _constants(name: str) -> ModuleType:
    """The library's settings, which take no time to import."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise InputError(
            f"{name}: comes by the package huggingface_hub, which is not installed; run pip install 'taproot[hub]', "
            "or give a file"
        ) from error
    return constants
