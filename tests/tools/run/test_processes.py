"""What processes share with others on a machine: cores, and a network that none of them asks."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.builders.runs import ROOT, command, in_own_process
from tools import eval_seg
from tools.run.config import SegConfig
from tools.run.loading import make_loader
from tools.run.processes import make_accelerator, single_thread
from tools.scoring.loaders import each_once

SHOW = "import os, tools; print(os.environ['OMP_WAIT_POLICY'], os.environ['NO_ALBUMENTATIONS_UPDATE'])"


@pytest.mark.parametrize(("own", "said"), [({}, "PASSIVE 1"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE 1")])
def test_idle_threads_do_not_spin_and_no_package_asks_for_its_newest_version(own, said):
    """Both are read when torch and albumentations are imported, and `tools` comes first."""
    ours = ("OMP_WAIT_POLICY", "NO_ALBUMENTATIONS_UPDATE")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | own
    line = [sys.executable, "-c", SHOW]
    assert subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True).stdout.strip() == said


def test_loader_workers_have_one_thread_each():
    class Images:
        train_set = range(4)
        collate = list

    def threads():
        torch.set_num_threads(3)
        single_thread(0)
        return torch.get_num_threads()

    assert in_own_process(threads) == 1
    assert make_loader(SegConfig(), make_accelerator(), Images, 0).worker_init_fn is single_thread
    assert each_once(range(4), workers=1).loader.worker_init_fn is single_thread


def test_training_and_scoring_ask_no_other_machine(world, tmp_path, monkeypatch):
    asked = []

    connect = socket.socket.connect

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("there is no network")

    def connect_here(self, address):  # to a loader worker
        return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, "run.steps=1"]) == 0
    weights = str(tmp_path / "run" / "best.safetensors")
    data = ["--data", str(world / "cityscapes"), "--workers", "0", "--out", str(tmp_path / "scored")]
    assert eval_seg.main(["--weights", weights, *data]) == 0
    assert asked == []
