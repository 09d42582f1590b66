"""The folder of built files: each is built once, whole, by whoever comes first; few are kept."""

import os
import threading

import pytest
import torch
from torch import nn

from tools.engines import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "taproot" / "engines"


def write(text):
    return lambda folder: (folder / "model").write_text(text)


def test_a_file_is_built_once_and_anew_where_it_is_damaged(folder):
    entry = cache.find_or_build("key", write("first"))
    assert entry == folder / "key" and (entry / "model").read_text() == "first"
    assert (cache.find_or_build("key", write("second")) / "model").read_text() == "first"
    assert (cache.find_or_build("key", write("third"), again=True) / "model").read_text() == "third"


def test_two_that_build_at_once_both_get_a_whole_file(folder):
    barrier, found = threading.Barrier(2), []

    def build(part):
        barrier.wait(10)
        (part / "model").write_text("whole")

    def use():
        found.append((cache.find_or_build("key", build) / "model").read_text())

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == ["whole", "whole"] and [path.name for path in folder.iterdir()] == ["key"]


def test_a_failed_build_leaves_nothing(folder):
    def fail(part):
        (part / "model").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cache.find_or_build("key", fail)
    assert list(folder.iterdir()) == []


def test_only_the_entries_used_last_are_kept(folder, monkeypatch):
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    for number, key in enumerate(("a", "b", "c")):
        entry = cache.find_or_build(key, write(key))
        if key != "c":
            os.utime(entry, (number, number))
        if key == "b":
            cache.find_or_build("a", write("again"))  # used: now newer than b
    assert sorted(path.name for path in folder.iterdir()) == ["a", "c"]


def test_a_home_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert (cache.find_or_build("key", write("text")) / "model").read_text() == "text"


def test_the_key_depends_on_weights_and_settings_alone():
    torch.manual_seed(0)
    model, settings = nn.Conv2d(3, 4, 1), {"size": [32, 64]}
    key = cache.entry_key(model, settings)
    assert key == cache.entry_key(model, {"size": [32, 64]}) != cache.entry_key(model, {"size": [64, 32]})
    with torch.no_grad():
        model.weight[0, 0] += 1e-3
    assert key != cache.entry_key(model, settings)
