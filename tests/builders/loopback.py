"""A server of files on this machine, well-behaved or not, and a guard that keeps tests from any other address."""

import contextlib
import hashlib
import io
import socket
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = Callable[["Handler"], None]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """`routes` says what it answers at a path, `asked` how often it was asked for the file there (HEAD not counted)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.routes: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()

    def hub_file(self, repository: str, revision: str, name: str, body: bytes, *, etag: str | None = None) -> None:
        """A file as the hub gives it, by a branch's name and by its commit."""
        headers = {"ETag": f'"{etag or hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        for version in (revision, COMMIT):
            self.routes[f"/{repository}/resolve/{version}/{name}"] = whole(body, headers=headers)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.server.files.asked[self.path] += 1
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the other side had enough
            self.server.files.routes.get(self.path, status(404))(self)

    def start(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def whole(body: bytes, *, headers: dict[str, str] | None = None, announced: int | None = None) -> Answer:
    """The body; with `announced` under another length than it has."""

    def answer(handler: Handler) -> None:
        length = len(body) if announced is None else announced
        handler.start(200, {"Content-Length": str(length)} | (headers or {}))
        if handler.command == "GET":
            handler.wfile.write(body)

    return answer


def status(code: int) -> Answer:
    return lambda handler: handler.start(code, {"Content-Length": "0"})


def redirect(location: str) -> Answer:
    return lambda handler: handler.start(302, {"Location": location, "Content-Length": "0"})


def endless(handler: Handler) -> None:
    handler.start(200, {})
    while True:
        handler.wfile.write(bytes(1 << 16))


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other, the last one ever after."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def slowly(body: bytes, seconds: float) -> Answer:
    def answer(handler: Handler) -> None:
        handler.start(200, {"Content-Length": str(len(body))})
        handler.wfile.write(body[:1])
        time.sleep(seconds)
        handler.wfile.write(body[1:])

    return answer


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = Server(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a connection to any other machine fail the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        assert isinstance(address, str | bytes) or address[0] in ("127.0.0.1", "::1"), f"left this machine: {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setenv("no_proxy", "*")


def archive(files: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    """A .tar.gz of files and of symbolic links."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return stream.getvalue()
