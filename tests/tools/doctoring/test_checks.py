"""The doctor names what is wrong with a machine and the cure, and nothing that is not."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tools import doctor
from tools.doctoring import checks
from tools.doctoring.checks import FAULT, NOTE, OK


def test_it_is_quick_and_finds_no_fault_here(tmp_path, capsys, world):
    began = time.perf_counter()
    assert doctor.main(["--out", str(tmp_path / "runs"), "--data", str(world / "coco")]) == 0
    assert time.perf_counter() - began < 10
    said = capsys.readouterr().out
    assert f"torch {torch.__version__}" in said and "COCO's layout" in said and said.endswith("no faults\n")
    assert not (tmp_path / "runs").exists()


def test_packages_that_are_missing_old_or_malicious_are_named(monkeypatch):
    versions = {"accelerate": "1.0", "rich": None, "lightning": "2.6.3"}
    real = checks.installed
    monkeypatch.setattr(checks, "installed", lambda name: versions[name] if name in versions else real(name))
    found = checks.check_packages()
    assert {finding.level for finding in found} == {FAULT} and len(found) == 3
    texts = [f"{finding.text}; {finding.cure}" for finding in found]
    assert texts[0] == "accelerate is 1.0, needed is >=1.10; pip install 'accelerate>=1.10'"
    assert "rich is not installed; pip install 'rich" in texts[1] and "lightning 2.6.3 is a release" in texts[2]


def test_a_torchvision_that_does_not_fit_is_named(monkeypatch):
    import torchvision.ops

    def fail(*_):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(torchvision.ops, "nms", fail)
    [found] = checks.check_packages()
    assert found.level == FAULT and "(operator torchvision::nms does not exist)" in found.text


def test_both_wheels_of_opencv_are_named(monkeypatch):
    monkeypatch.setattr(checks, "installed", lambda name: "4.13" if "contrib" not in name else None)
    [found] = checks.check_opencv()
    assert found.level == NOTE and "opencv-python and opencv-python-headless share" in found.text
    monkeypatch.setattr(checks.cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    [found] = checks.check_opencv()
    assert "has no windows" in found.text and "--force-reinstall" in found.cure


def test_little_disk_and_shared_memory_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64e6))
    [found] = checks.check_disk(tmp_path / "runs" / "a", 300e6)
    assert found.level == FAULT and "0.06 GB free, a run's checkpoints take about 0.30 GB" in found.text
    [found] = checks.check_shared_memory()
    assert found.level == NOTE and "--shm-size" in found.cure
    (tmp_path / "file").touch()
    assert checks.check_disk(tmp_path / "file" / "run", 1)[0].level == FAULT


@pytest.mark.parametrize(
    ("cores", "load", "level"), [(1, 0.5, NOTE), (8, 0.5, OK), (8, 20.0, NOTE)], ids=["quota", "idle", "busy"]
)
def test_threads_without_cores_are_named(monkeypatch, cores, load, level):
    monkeypatch.setattr(checks, "usable_cores", lambda: cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    [found] = checks.check_threads()
    assert found.level == level and ("OMP_NUM_THREADS=1" in found.cure) is (level == NOTE)


def test_a_gpu_that_torch_cannot_use_is_a_fault(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidia0")
    [found] = checks.check_gpu()
    assert found.level == FAULT and "update the driver" in found.cure


def test_a_display_and_data_that_are_not_there_are_named(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert checks.check_display()[0].level == NOTE
    monkeypatch.setenv("DISPLAY", ":0")
    assert checks.check_display()[0].level == OK
    assert checks.check_data(tmp_path)[0].level == NOTE
    assert doctor.main(["--out", str(tmp_path), "--data", str(tmp_path / "absent")]) == 1
    assert f"FAULT  {tmp_path / 'absent'}: no such folder" in capsys.readouterr().out
