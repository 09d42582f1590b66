"""A server for the page's folder, on this machine only, with the headers that let WebAssembly use threads."""

from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from backbone.errors import InputError

HOST = "127.0.0.1"


class Handler(SimpleHTTPRequestHandler):
    """Serves files; a page that is isolated by these headers may share memory between threads."""

    extensions_map: ClassVar = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the terminal shows the address."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder; port 0 takes a free one.

    Raises:
        InputError: the port is taken.
    """
    handler: Callable[..., Handler] = partial(Handler, directory=str(folder))
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise InputError(f"--serve {port}: cannot be used ({error.strerror}); give another port") from error
