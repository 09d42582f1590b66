"""What a dry run says of a run's time, memory and disk."""

import re

import pytest

from tests.builders.runs import command
from tools.run import dry_run
from tools.run.config import Run


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few steps are timed; what they took is not looked at here."""
    monkeypatch.setattr(dry_run, "STEPS", 1)
    monkeypatch.setattr(dry_run, "SECONDS", 0)


@pytest.mark.parametrize("task", ["seg", "det", "joint"])
def test_a_dry_run_leaves_nothing_and_knows_what_the_run_will_leave(world, tmp_path, capsys, monkeypatch, task):
    main, arguments = command(task, world, tmp_path / "run")
    own = ["run.steps=8", "run.eval_every=3", "run.save_every=4", "run.keep_best=2", "run.samples=2"]
    left = []
    estimate = dry_run.disk_left
    monkeypatch.setattr(dry_run, "disk_left", lambda *arguments: left.append(estimate(*arguments)) or left[0])
    assert main([*arguments, *own, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"time: about \d+ s for 8 steps of [\d.]+ s, 3 evaluations of [\d.]+ s, 2 checkpoints of", said)
    assert re.search(r"memory: \d\.\d\d GB in each training process", said) and "loader workers" not in said
    assert "done:" not in said and not (tmp_path / "run").exists()

    assert main([*arguments, *own]) == 0
    written = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert left == [pytest.approx(written, rel=0.05)]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_of_fewer_steps_than_log_rows_have_is_estimated(world, tmp_path, capsys, steps):
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, f"run.steps={steps}", "run.log_every=20", "--dry-run"]) == 0
    assert re.search(rf"for {steps} steps of .*\n.*\ndisk: \d+ MB", capsys.readouterr().out)


def test_workers_are_counted(world, tmp_path, capsys):
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, "data.workers=1", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"memory: \d\.\d\d GB in each training process, up to \d\.\d\d GB in each of 1 loader", said)


class OneProcess:
    num_processes = 1


class Clock:
    """Time passes only while batches are loaded and steps are made."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(dry_run.time, "perf_counter", lambda: self.now)

    def steps(self, pace, seconds):
        """The number of steps of so many seconds, and what the pace makes of them."""

        def load():
            for duration in seconds:
                self.now += duration
                yield []

        steps = sum(1 for _ in pace.until_known(load()))
        return steps, pace.seconds_of_step()


def test_slow_first_steps_and_batches_that_were_ready_do_not_count(monkeypatch):
    monkeypatch.setattr(dry_run, "STEPS", 8)
    pace = dry_run.Pace(Run(steps=100, log_every=2), 1, OneProcess())
    ready = [9.0, 9.0, *[0.01] * 4]  # four batches were loaded while the first step was made
    assert Clock(monkeypatch).steps(pace, [*ready, *[0.5] * 90]) == (14, 0.5)


def test_fast_steps_are_timed_long_enough_and_slow_ones_not_too_long(monkeypatch):
    monkeypatch.setattr(dry_run, "STEPS", 8)
    monkeypatch.setattr(dry_run, "SECONDS", 4.0)
    clock = Clock(monkeypatch)
    fast = clock.steps(dry_run.Pace(Run(steps=1000, log_every=2), 0, OneProcess()), [0.03125] * 900)
    assert fast == (132, 0.03125)
    slow = clock.steps(dry_run.Pace(Run(steps=1000, log_every=2), 8, OneProcess()), [64, 64, *[32.0] * 90])
    assert slow == (4, 32)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_few_steps_has_a_time(monkeypatch, steps):
    found = Clock(monkeypatch).steps(dry_run.Pace(Run(steps=steps, log_every=1), 2, OneProcess()), [2.0] * steps)
    assert found == (max(1, steps - 1), 2)


def test_durations_are_told_as_exactly_as_they_are_known():
    assert [dry_run._duration(seconds) for seconds in (7.4, 599, 601, 3660)] == ["7 s", "599 s", "10 min", "1 h 1 min"]
