"""The training benchmark: a real run takes turns with the others, and its parts add up to its time."""

import json
import math
from pathlib import Path

import pytest

from tests.builders.runs import command
from tools import benchmark
from tools.benchmarks import train
from tools.run.config import DetConfig, SegConfig, load
from tools.run.pretrained import settle


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_run_is_timed_beside_the_others_by_part(world, tmp_path, monkeypatch, task):
    monkeypatch.setattr(train.console, "quiet", False)  # which measuring sets
    _, (path, *overrides) = command(task, world, tmp_path / "run")
    config = settle(load({"seg": SegConfig, "det": DetConfig}[task], Path(path), overrides)).config
    measured, device = train.measure(config, steps=2, rounds=2)
    assert device == "cpu"
    assert {name: len(rounds) for name, rounds in measured.rounds.items()} == dict.fromkeys(train.CONTENDERS, 2)
    assert measured.parameters[train.OURS] == measured.parameters[train.BARE] != measured.parameters[train.PEER]
    whole = sum(found.seconds for found in measured.rounds[train.OURS])
    assert math.isclose(sum(measured.parts[part] for part in train.PARTS), whole, rel_tol=0.05)
    assert all(measured.parts[part] > 0 for part in (*train.PARTS, *train.OCCASIONS))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_whole_comparison(world, tmp_path, capsys):
    _, (path, *overrides) = command("seg", world, tmp_path / "run")
    own = ["--steps", "2", "--rounds", "1", "--out", str(tmp_path / "out")]
    assert benchmark.main(["train", "seg", path, *overrides, "run.threads=1", *own]) == 0
    report = json.loads((tmp_path / "out" / train.FILE).read_text())
    assert set(report["results"]) == set(train.CONTENDERS) and report["input_hw"] == [48, 64]
    for found in report["results"].values():
        assert found["images_per_second"] == pytest.approx(1000 * 4 / found["step_ms"])
        assert 100 < found["peak_memory_mib"] < 4000 and 0 < found["processor_share"] < 1.1
    assert "by part" in capsys.readouterr().out
