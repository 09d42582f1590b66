"""A run survives any death: nothing older than the last interval is lost, and what is resumed is exact."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from backbone import InputError
from tests.builders.runs import ROOT, assert_equal, command, in_own_process, kill_myself, log_of
from tools.io import files
from tools.io.files import NoSpace
from tools.run import checkpoint, detection, evaluation, lock, log, loop, segmentation
from tools.run.disk import NOT_WRITTEN
from tools.run.schedule import learning_rate

SAVED = {"step": 1, "model": {"w": torch.arange(1000.0)}, "optimizer": {}, "config": {}}


def die_at_step(step):
    def rate(optim, number, steps):
        if number == step - 1:
            kill_myself()
        return learning_rate(optim, number, steps)

    loop.learning_rate = rate


def die_while_evaluating(_):
    segmentation.evaluate_model = detection.evaluate_model = kill_myself


def die_while_writing(step):
    """When half of the state after this step is written."""
    save = torch.save

    def save_half(state, file):
        if state["step"] < step:
            save(state, file)
        else:
            file.write(b"PK half of an archive")
            file.flush()
            kill_myself()

    checkpoint.torch.save = save_half


def die_between_renames(step):
    """When the old state has its second name and the new one not yet its own."""
    replace = os.replace

    def replace_and_die(old, new):
        replace(old, new)
        if Path(new).name == checkpoint.PREVIOUS and checkpoint.load_state(Path(new))["step"] == step - 1:
            kill_myself()

    files.os.replace = replace_and_die


def die_while_logging(step):
    """When the rows of this step are written, and nothing else of it."""
    append = log.Log._append

    def append_and_die(self):
        append(self)
        if any(row.startswith(b"%d," % step) for row in self.path.read_bytes().splitlines()):
            kill_myself()

    log.Log._append = append_and_die


DEATHS = [
    (die_at_step, 1),
    (die_while_writing, 2),
    (die_while_evaluating, 3),
    (die_between_renames, 4),
    (die_while_logging, 6),
    (die_at_step, 6),
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "workers"), [("seg", 2), ("det", 0)])
def test_a_run_that_was_killed_at_every_turn_ends_as_if_it_had_not_been(
    finished, world, tmp_path, capfd, task, workers
):
    main, arguments = command(task, world, tmp_path / "run")
    arguments = [*arguments, "run.save_every=1", f"data.workers={workers}"]
    for number, (die, step) in enumerate(DEATHS):

        def run(die=die, step=step, number=number):
            die(step)
            return main([*arguments, "--resume"] if number else arguments)

        assert in_own_process(run) == -signal.SIGKILL, (die, step)
    assert main([*arguments, "--resume"]) == 0
    said = capfd.readouterr().out
    assert "the run ended before its first last.pt; it starts again" in said
    assert "last.pt: missing; going on from" in said and "last-1.pt of step 3" in said
    states = [checkpoint.load_state(folder / "last.pt") for folder in (finished[task], tmp_path / "run")]
    for state in states:
        del state["config"]
    assert_equal(*states)
    assert_equal(*(log_of(folder) for folder in (finished[task], tmp_path / "run")))
    best = [folder / "best.safetensors" for folder in (finished[task], tmp_path / "run")]
    assert best[0].read_bytes() == best[1].read_bytes()
    assert not list((tmp_path / "run").glob(".*"))  # neither half-written files nor the lock


@pytest.fixture(params=["disk", "memory"])
def other_folder(request, tmp_path):
    """A folder beside other temporary files, and one on another filesystem."""
    if request.param == "disk":
        yield tmp_path
        return
    memory = Path("/dev/shm")
    if not memory.is_dir():
        pytest.skip("this system has no /dev/shm, a filesystem apart from that of temporary files")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_saving_that_is_killed_at_any_moment_leaves_a_whole_state(other_folder):
    rng = random.Random(0)
    reached = 0
    path = other_folder / "last.pt"
    for _ in range(20):
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for step in range(reached + 1, 10**6):
                    checkpoint.save_state(path, SAVED | {"step": step}, keep_previous=path.exists())
                    os.write(begins, b"x")
            finally:
                os._exit(99)
        os.read(begun, 1)
        time.sleep(0.01 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = checkpoint.load_newest(other_folder)
        assert saved.state["step"] > reached and torch.equal(saved.state["model"]["w"], SAVED["model"]["w"])
        reached = saved.state["step"]
        if saved.fault is not None:
            os.replace(saved.path, path)
        os.close(begun)
        os.close(begins)
        with lock.lock_folder(other_folder, is_main=True):
            assert not list(other_folder.glob(".*.part"))
    assert reached >= 20


def test_no_changed_byte_of_a_state_goes_unnoticed(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save_state(path, SAVED)
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        position = rng.randrange(len(whole))
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << rng.randrange(8)]) + whole[position + 1 :])
        try:
            assert_equal(checkpoint.load_state(path), SAVED)  # the gaps between records mean nothing
        except InputError:
            refused += 1
    assert refused > 100


def test_a_damaged_state_gives_way_to_the_one_before_which_is_not_lost_then(finished, world, tmp_path, capsys):
    main, arguments = command("seg", world, tmp_path / "run")
    arguments = [*arguments, "run.save_every=1"]

    def die():
        die_at_step(5)
        return main(arguments)

    assert in_own_process(die) == -signal.SIGKILL
    last, previous = (tmp_path / "run" / name for name in ("last.pt", "last-1.pt"))
    assert [checkpoint.load_state(path)["step"] for path in (last, previous)] == [4, 3]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)

    def die_again():
        die_while_writing(4)
        return main([*arguments, "--resume"])

    assert in_own_process(die_again) == -signal.SIGKILL
    assert checkpoint.load_newest(tmp_path / "run").state["step"] == 3
    capsys.readouterr()
    assert main([*arguments, "--resume"]) == 0
    assert f"{last}: damaged; going on from {previous} of step 3" in capsys.readouterr().out
    assert [checkpoint.load_state(path)["step"] for path in (last, previous)] == [6, 5]
    one, other = (checkpoint.load_state(folder / "last.pt")["model"] for folder in (finished["seg"], tmp_path / "run"))
    assert_equal(one, other)


@pytest.mark.slow
def test_a_folder_has_one_run_at_a_time(world, tmp_path):
    main, arguments = command("seg", world, tmp_path / "run")
    started, go = os.pipe(), os.pipe()

    def wait(_):
        def rate(optim, number, steps):
            os.write(started[1], b"x")
            os.read(go[0], 1)
            return learning_rate(optim, number, steps)

        loop.learning_rate = rate

    child = os.fork()
    if child == 0:
        code = 99
        try:
            wait(None)
            code = main([*arguments, "run.steps=1", "data.workers=1"])
        finally:
            os._exit(code)
    assert os.read(started[0], 1) == b"x"
    for how in ([], ["--resume"]):
        with pytest.raises(InputError, match=rf"another run \(process {child} on .*\) trains into this folder"):
            main([*arguments, *how])
    line = [sys.executable, "-m", "tools.train_seg", *arguments]
    second = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2 and second.stderr.count("\n") == 1 and "another run" in second.stderr
    os.write(go[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    assert main([*arguments, "run.steps=1", "--resume"]) == 0


def test_what_is_refused_before_its_first_step_leaves_no_folder(tmp_path):
    main, arguments = command("seg", tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(InputError, match="nowhere"):
        main(arguments)
    with pytest.raises(InputError, match="nothing to resume"):
        main([*arguments, "--resume"])
    assert not (tmp_path / "run").exists()


def test_a_longer_run_goes_on_only_where_that_is_asked_for(finished, world, tmp_path, capsys):
    shutil.copytree(finished["seg"], tmp_path / "run")
    main, arguments = command("seg", world, tmp_path / "run")
    longer = [*arguments, "run.steps=8"]
    with pytest.raises(InputError, match=r"run\.steps=6, now 8: .* the learning rate that ended at .*; add --extend"):
        main([*longer, "--resume"])
    with pytest.raises(SystemExit) as stop:
        main([*longer, "--extend"])
    assert stop.value.code == 2
    with pytest.raises(InputError, match=r"was made with run\.steps=6, now 5; a resumed run"):
        main([*arguments, "run.steps=5", "--resume", "--extend"])
    assert main([*longer, "--resume", "--extend"]) == 0
    assert "the schedule is stretched" in capsys.readouterr().out
    rates = [line for line in log_of(tmp_path / "run") if ",lr," in line]
    assert rates[-1].startswith("8,") and rates[:3] == [line for line in log_of(finished["seg"]) if ",lr," in line]
    assert main([*longer, "--resume"]) == 0  # from now on the run has eight steps


def full_for(monkeypatch, steps):
    """No state can be written while it is at one of these steps."""
    save = torch.save

    def fail(state, file):
        if state["step"] in steps:
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", fail)


def test_a_disk_that_is_full_for_a_while_costs_nothing_but_that_state(finished, world, tmp_path, monkeypatch, capsys):
    main, arguments = command("seg", world, tmp_path / "run")
    full_for(monkeypatch, {2, 3})
    assert main([*arguments, "run.save_every=1"]) == 0
    said = capsys.readouterr().out
    assert said.count("last.pt: cannot be written (No space left on device)") == 1
    one, other = (checkpoint.load_state(folder / "last.pt")["model"] for folder in (finished["seg"], tmp_path / "run"))
    assert_equal(one, other)


def test_a_disk_that_stays_full_is_told_at_the_end(finished, world, tmp_path, monkeypatch, capsys):
    main, arguments = command("seg", world, tmp_path / "run")

    def no_space(*_):
        raise NoSpace("best.safetensors: cannot be written")

    with monkeypatch.context() as patch:
        full_for(patch, {4, 5, 6})
        patch.setattr(evaluation, "save_model", no_space)
        assert main([*arguments, "run.save_every=1"]) == NOT_WRITTEN
    assert "lacks the newest best.safetensors, last.pt; free space, then --resume" in capsys.readouterr().out
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 3
    assert main([*arguments, "--resume"]) == 0
    assert_equal(*(log_of(folder) for folder in (finished["seg"], tmp_path / "run")))
    best = [folder / "best.safetensors" for folder in (finished["seg"], tmp_path / "run")]
    assert best[0].read_bytes() == best[1].read_bytes()


def test_a_run_whose_folder_goes_away_ends_in_one_line(world, tmp_path, monkeypatch):
    main, arguments = command("seg", world, tmp_path / "run")

    def take_away(optim, step, steps):
        if step == 2:
            shutil.rmtree(tmp_path / "run")
        return learning_rate(optim, step, steps)

    monkeypatch.setattr(loop, "learning_rate", take_away)
    with pytest.raises(InputError, match=r"log\.csv: has gone; bring the run's folder back, or start a new run"):
        main([*arguments, "run.save_every=1", "run.log_every=1"])
    assert not (tmp_path / "run").exists()
