"""Fetching published files: checked, bounded, whole or not at all, and never from anywhere but a server of ours."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backbone.errors import InputError
from backbone.weights.names import resolve
from backbone.weights.publishers import archives, download
from tests.builders import loopback

BODY = bytes(range(256)) * 1000
HASH = hashlib.sha256(BODY).hexdigest()
NAME = "deeplab/lraspp_small_cityscapes"
CHECKPOINT = {"model/model.ckpt.index": b"index", "model/model.ckpt.data-00000-of-00001": b"data"}
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def server(monkeypatch):
    loopback.only_loopback(monkeypatch)
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    with loopback.serve() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch, server):
    """Our cache, with the small segmenter's archive at the server's /small.tgz."""
    monkeypatch.setenv("TAPROOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(archives.ARCHIVES, NAME, archives.Archive(f"{server.address}/small.tgz"))
    server.routes["/small.tgz"] = loopback.whole(loopback.archive(CHECKPOINT))
    return tmp_path / "cache"


def fetched(server, path, answer, **arguments) -> str:
    server.routes["/file"] = answer
    return download.download("a/name", f"{server.address}/file", path, **arguments)


def test_a_file_comes_whole(server, tmp_path, capsys):
    path = tmp_path / "new" / "file"
    assert fetched(server, path, loopback.whole(BODY), hash_prefix=HASH[:8]) == HASH
    assert path.read_bytes() == BODY and os.listdir(path.parent) == ["file"]
    assert capsys.readouterr().err == f"fetching a/name from {server.address}/file (0.3 MB)\n"


def test_a_cut_download_starts_again(server, tmp_path):
    answer = loopback.in_turn(loopback.whole(BODY[:9], announced=len(BODY)), loopback.status(503), loopback.whole(BODY))
    assert fetched(server, tmp_path / "file", answer) == HASH
    assert (tmp_path / "file").read_bytes() == BODY and server.asked["/file"] == 3


@pytest.mark.parametrize(
    ("answer", "reason", "asked"),
    [
        (loopback.whole(BODY, announced=len(BODY) + 1), "it ended after 256000 of 256001 bytes", 3),
        (loopback.whole(BODY + b"."), "its SHA-256 begins with e1f14c72, not with " + HASH[:8], 1),
        (loopback.status(404), "HTTP Error 404: Not Found", 1),
        (loopback.status(500), "HTTP Error 500", 3),
        (loopback.whole(b"", announced=10**12), "it has 1000000000000 bytes, more than the 300000 allowed", 1),
        (loopback.endless, "it does not end after the 300000 bytes allowed", 1),
        (loopback.redirect("file:///etc/passwd"), "file:///etc/passwd' is not allowed", 1),
        (loopback.redirect("ftp://127.0.0.1/file"), "ftp://127.0.0.1/file is no https address", 1),
        (loopback.redirect("http://192.0.2.1/file"), "http://192.0.2.1/file is no https address", 1),
        (loopback.redirect("/file"), "redirect", 5),
    ],
    ids=["short", "hash", "404", "500", "long", "endless", "file", "ftp", "http", "circle"],
)
def test_what_is_not_the_file_is_one_line_and_leaves_nothing(server, tmp_path, answer, reason, asked):
    with pytest.raises(InputError) as caught:
        fetched(server, tmp_path / "file", answer, hash_prefix=HASH[:8], limit=300_000)
    message = str(caught.value)
    assert reason in message and "\n" not in message
    assert f"did not arrive from {server.address}/file" in message
    assert message.endswith(f"put it at {tmp_path / 'file'}")
    assert os.listdir(tmp_path) == [] and server.asked["/file"] == asked


def test_only_https_is_asked_elsewhere(server, tmp_path):
    for address in ("http://192.0.2.1/file", "file:///etc/passwd", "ftp://192.0.2.1/file"):
        with pytest.raises(InputError, match="is no https address"):
            download.download("a/name", address, tmp_path / "file")


def test_without_a_network_the_line_says_what_to_put_where(tmp_path, monkeypatch):
    loopback.only_loopback(monkeypatch)
    with loopback.serve() as closed:
        address = f"{closed.address}/file"
    with pytest.raises(
        InputError, match=rf"file is not on this machine .*{address} \(.*refused\).*put it at {tmp_path}"
    ):
        download.download("a/name", address, tmp_path / "file")


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "full").write_text("a file where a folder should be")
    with pytest.raises(
        InputError, match=r"full/cache cannot be written .*fetch http://\S+ by other means and put it at"
    ):
        fetched(server, tmp_path / "full" / "cache" / "file", loopback.whole(BODY))
    assert server.asked["/file"] == 0


def test_an_archive_is_unpacked_and_found_again_without_its_server(server, cache, capsys):
    server.routes["/small.tgz"] = loopback.whole(
        loopback.archive(CHECKPOINT | {"model/frozen_inference_graph.pb": b"graph"})
    )
    path = resolve(NAME)
    assert path == cache / NAME / "model.ckpt.index"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {
        "model.ckpt.index": b"index",
        "model.ckpt.data-00000-of-00001": b"data",
    }
    told = capsys.readouterr().err
    assert "licence Apache-2.0; trained on Cityscapes, whose terms allow non-commercial use only" in told
    server.routes.clear()
    assert resolve(NAME) == path and capsys.readouterr().err == ""
    assert sorted(os.listdir(path.parent.parent)) == ["lraspp_small_cityscapes", "small.tgz.sha256"]


def test_a_cache_that_was_made_read_only_is_read(server, cache):
    path = resolve(NAME)
    before = sorted(cache.rglob("*"))
    folders = [cache, cache / "deeplab", path.parent]
    try:
        for folder in folders:
            folder.chmod(0o500)
        server.routes.clear()
        assert resolve(NAME) == path and path.read_bytes() == b"index"
        assert sorted(cache.rglob("*")) == before
    finally:
        for folder in folders:
            folder.chmod(0o700)


def test_an_archive_put_there_by_hand_is_taken(server, cache):
    server.routes.clear()
    (cache / "deeplab").mkdir(parents=True)
    (cache / "deeplab" / "small.tgz").write_bytes(loopback.archive(CHECKPOINT))
    assert resolve(NAME).read_bytes() == b"index"
    assert (cache / "deeplab" / "small.tgz").exists()


def test_an_archive_must_be_the_one_that_came_first(server, cache):
    for file in resolve(NAME).parent.iterdir():
        file.unlink()
    server.routes["/small.tgz"] = loopback.whole(loopback.archive(CHECKPOINT | {"model/more": b""}))
    known = cache / "deeplab" / "small.tgz.sha256"
    with pytest.raises(InputError, match=rf"and was {known.read_text().strip()} when it .* remove {known}"):
        resolve(NAME)
    known.unlink()
    assert resolve(NAME).read_bytes() == b"index"


INDEX = {"model.ckpt.index": b"index"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (loopback.archive(INDEX | {"../../escaped.index": b"!"}), "outside the destination"),
        (loopback.archive(INDEX | {"/escaped/model.ckpt.index": b"!"}), r"model\.ckpt\.index twice"),
        (loopback.archive({"model/../../../model.ckpt.index": b"!"}), "outside the destination"),
        (loopback.archive({"out/model.ckpt.index": b"!"}, links={"out": "../.."}), "outside the destination"),
        (loopback.archive({"a": b""}), "holds no TensorFlow checkpoint"),
        (loopback.archive(CHECKPOINT)[:-20], "not unpacked"),
        (b"no archive", "not unpacked"),
        (loopback.archive({f"file{number}": b"" for number in range(20)}), "more than the 10 files allowed"),
        (loopback.archive({"zeros": bytes(100_000)}), "more than the 50000 bytes allowed"),
    ],
    ids=["parent", "twice", "deep", "link", "other", "cut", "text", "many", "bomb"],
)
def test_a_hostile_archive_writes_nothing(server, cache, monkeypatch, body, reason):
    monkeypatch.setattr(archives, "MAX_FILES", 10)
    monkeypatch.setattr(archives, "MAX_BYTES", 50_000)
    server.routes["/small.tgz"] = loopback.whole(body)
    with pytest.raises(InputError, match=reason) as caught:
        resolve(NAME)
    assert "\n" not in str(caught.value)
    written = [path.name for path in cache.parent.rglob("*") if path.is_file()]
    assert written == ["small.tgz.sha256"]


def test_two_processes_may_fetch_the_same_at_once(server, cache):
    server.routes["/small.tgz"] = loopback.slowly(loopback.archive(CHECKPOINT), seconds=2)
    code = (
        "from backbone.weights.names import resolve; from backbone.weights.publishers import archives;"
        f"archives.ARCHIVES[{NAME!r}] = archives.Archive('{server.address}/small.tgz'); print(resolve({NAME!r}))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in started:
        path = Path(process.communicate(timeout=60)[0].strip())
        assert process.returncode == 0 and path.read_bytes() == b"index"
    left = {str(path.relative_to(cache / "deeplab")) for path in (cache / "deeplab").rglob("*")}
    names = {"", *(f"/{Path(name).name}" for name in CHECKPOINT)}
    assert left == {"small.tgz.sha256", *(f"lraspp_small_cityscapes{name}" for name in names)}


def test_every_archives_address_is_https():
    assert all(re.fullmatch(r"https://\S+\.(tar\.gz|tgz)", archive.address) for archive in archives.ARCHIVES.values())
