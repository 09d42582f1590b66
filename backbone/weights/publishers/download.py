"""Fetches one file over HTTPS: bounded in size and redirects, checked, and written whole or not at all."""

import hashlib
import http.client
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from backbone.errors import InputError

LIMIT = 500_000_000
"""Bytes; more than any weights of small networks have."""
ATTEMPTS = 3
"""How often a file is fetched from its start when the connection is cut or the server is busy."""
PAUSE_S = 1.0
TIMEOUT_S = 30.0
"""Without a byte for so long, the connection counts as cut."""
MAX_REDIRECTS = 5
CHUNK = 1 << 16
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class _Refused(Exception):
    """What came is not what was asked for, and asking again would not help."""


class _Cut(Exception):
    """The connection ended early."""


def _refusal(name: str, path: Path, address: str, reason: str) -> InputError:
    """The line that says which file is missing, why, its address, and where to put it by hand."""
    return InputError(
        f"{name}: {path.name} is not on this machine and did not arrive from {address} ({reason}); "
        f"fetch it by other means and put it at {path}"
    )


def download(
    name: str, address: str, path: Path, *, place: Path | None = None, hash_prefix: str = "", limit: int = LIMIT
) -> str:
    """Fetches a file to `path` and returns its SHA-256 in hexadecimal digits.

    Several may do so at once: each has its own temporary file, and the last one to finish replaces the other's.

    Arguments:
        name: what was asked for, for progress and errors.
        address: https://…; plain http only for this machine itself.
        place: where a person can put the file, by default `path`.
        hash_prefix: the first digits of the SHA-256 that the file must have.
        limit: bytes that it may have at most.
    Raises:
        InputError: it cannot be fetched or written, or is not the file that was announced; nothing is left of it.
    """
    place = place or path
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "wb")  # noqa: SIM115 - closed below, before it is renamed
    except OSError as error:
        raise InputError(
            f"{name}: {path.parent} cannot be written ({error.strerror}); make it writable, or fetch {address} "
            f"by other means and put it at {place}"
        ) from error
    try:
        with file:
            digest = _with_attempts(lambda: _receive(name, address, file, limit))
        if not digest.startswith(hash_prefix):
            raise _Refused(f"its SHA-256 begins with {digest[: len(hash_prefix)]}, not with {hash_prefix}")
        os.replace(temporary, path)
    except (_Refused, _Cut, OSError) as error:
        reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        if isinstance(reason, OSError) and reason.strerror:
            reason = reason.strerror  # without its number
        raise _refusal(name, place, address, " ".join(str(reason).split())) from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def _with_attempts(receive: Callable[[], str]) -> str:
    attempt = 1
    while True:
        try:
            return receive()
        except (_Cut, HTTPError) as error:
            missing = isinstance(error, HTTPError) and error.code < 500
            if missing or attempt == ATTEMPTS:
                raise
        time.sleep(PAUSE_S * attempt)
        attempt += 1


def _receive(name: str, address: str, file: IO[bytes], limit: int) -> str:
    """One attempt: writes the whole body to `file` from its start and returns its SHA-256."""
    _check_address(address)
    file.seek(0)
    file.truncate()
    received, digest = 0, hashlib.sha256()
    request = Request(address, headers={"User-Agent": "taproot", "Accept-Encoding": "identity"})
    try:
        response = build_opener(_Redirects()).open(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        raise
    except http.client.HTTPException as error:
        raise _Cut(f"the server did not speak HTTP: {error or type(error).__name__}") from error
    with response:
        announced = response.headers.get("Content-Length", "")
        length = int(announced) if announced.isdecimal() else None
        if length is not None and length > limit:
            raise _Refused(f"it has {length} bytes, more than the {limit} allowed")
        with _progress(name, address, length) as advance:
            while chunk := _read(response):
                received += len(chunk)
                if received > limit:
                    raise _Refused(f"it does not end after the {limit} bytes allowed")
                file.write(chunk)
                digest.update(chunk)
                advance(len(chunk))
    if length is not None and received != length:
        raise _Cut(f"it ended after {received} of {length} bytes")
    return digest.hexdigest()


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"the connection was cut: {error or type(error).__name__}") from error


class _Redirects(HTTPRedirectHandler):
    """Follows few redirects, and only where the first address might have pointed."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> Request | None:
        try:
            _check_address(newurl, redirected_from=req.full_url)
        except _Refused:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(address: str, redirected_from: str | None = None) -> None:
    """Plain http is for a server on this machine, and no server elsewhere may send us there."""
    hosts = [urlsplit(url).hostname for url in (address, redirected_from) if url is not None]
    local = all(host in LOOPBACK for host in hosts)
    if urlsplit(address).scheme != "https" and not (local and urlsplit(address).scheme == "http"):
        raise _Refused(f"{address} is no https address")


@contextmanager
def _progress(name: str, address: str, length: int | None) -> Iterator[Callable[[int], None]]:
    """Gives what is to be called with the count of every chunk: a bar on a terminal, else a line at the beginning."""
    if not sys.stderr.isatty():
        size = "" if length is None else f" ({length / 1e6:.1f} MB)"
        print(f"fetching {name} from {address}{size}", file=sys.stderr)
        yield lambda count: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"fetching {escape(name)}", total=length)
        yield lambda count: bar.advance(task, count)
