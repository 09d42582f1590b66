"""What goes wrong in a training: each fault ends it in one line, loses no step and damages no file."""

import json
import math
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from torch import nn

import det
from backbone import InputError
from seg.loss import LOSSES
from tests.builders.runs import ROOT, assert_equal, command, in_own_process, log_of
from tools.io import console, model_file
from tools.run import checkpoint, detection, segmentation
from tools.run.config import SegConfig
from tools.run.disk import NOT_WRITTEN, Disk
from tools.run.guard import IN_A_ROW, NON_FINITE
from tools.run.log import Log

DAMAGES = {
    "cut short": lambda whole: whole[:1000],
    "no archive": lambda whole: b"nonsense",
    "pickled code": lambda whole: pickle.dumps(Path("/")),
    "empty": lambda whole: b"",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_in_plain_words(finished, world, tmp_path, damage):
    main, arguments = command("seg", world, tmp_path)
    (tmp_path / "last.pt").write_bytes(damage((finished["seg"] / "last.pt").read_bytes()))
    with pytest.raises(InputError, match=r"last\.pt: damaged, or no state of a run; start a new run") as refused:
        main([*arguments, "--resume"])
    assert "pickle" not in str(refused.value) and "weights_only" not in str(refused.value)


def test_a_file_of_torch_that_is_no_state_of_a_run_is_refused(world, tmp_path):
    main, arguments = command("seg", world, tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt: damaged, or no state of a run"):
        main([*arguments, "--resume"])


def test_a_run_goes_on_though_its_config_lacks_a_younger_key(finished, world, tmp_path):
    shutil.copytree(finished["seg"], tmp_path / "run")
    state = checkpoint.load_state(tmp_path / "run" / "last.pt")
    del state["config"]["run.sync_norm"], state["evaluated"]
    checkpoint.save_state(tmp_path / "run" / "last.pt", state)
    main, arguments = command("seg", world, tmp_path / "run")
    with pytest.raises(InputError, match=r"was made with run\.sync_norm=False, now True"):
        main([*arguments, "run.sync_norm=true", "--resume"])
    assert main([*arguments, "--resume"]) == 0


@pytest.mark.parametrize("eval_every", [3, 9])
def test_an_evaluation_that_failed_is_made_up_for_by_resuming(
    finished, world, tmp_path, monkeypatch, capsys, eval_every
):
    main, arguments = command("seg", world, tmp_path / "run")
    arguments = [*arguments, f"run.eval_every={eval_every}"]
    evaluate = segmentation.evaluate_model

    def fail_at_last(model, *others, **named):
        if len(evaluated) == (1 if eval_every == 3 else 0):
            raise InputError("the share with the images has gone")
        evaluated.append(model)
        return evaluate(model, *others, **named)

    evaluated = []
    with monkeypatch.context() as patch:
        patch.setattr(segmentation, "evaluate_model", fail_at_last)
        for more in ([], ["--resume"]):
            with pytest.raises(InputError, match="has gone"):
                main([*arguments, *more])
    assert "done:" not in capsys.readouterr().out
    assert main([*arguments, "--resume"]) == 0
    best = tmp_path / "run" / "best.safetensors"
    assert best.exists() and f"done: {best}" in capsys.readouterr().out
    states = [checkpoint.load_state(folder / "last.pt") for folder in (finished["seg"], tmp_path / "run")]
    assert [state.pop("evaluated") for state in states] == [6, 6]
    for state in states:
        del state["config"]
    if eval_every == 3:
        assert_equal(*states)
        assert_equal(*(log_of(folder) for folder in (finished["seg"], tmp_path / "run")))
    else:
        assert next(line for line in log_of(tmp_path / "run") if ",val/miou," in line).startswith("6,")


def test_a_finished_run_whose_best_weights_were_taken_away_writes_them_anew(finished, world, tmp_path):
    shutil.copytree(finished["seg"], tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").unlink()
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, "--resume"]) == 0
    assert model_file.load_description(tmp_path / "run" / "best.safetensors")["step"] == 6
    assert_equal(log_of(finished["seg"]), log_of(tmp_path / "run"))


def test_text_from_data_and_configs_is_never_markup(world, tmp_path, capsys):
    out = tmp_path / "[red] run [/b]"
    main, arguments = command("seg", world, out)
    assert main([*arguments, "run.steps=1", "optim.ema=0"]) == 0
    assert f"done: {out / 'best.safetensors'}" in capsys.readouterr().out
    main, arguments = command("seg", world, tmp_path / "[/c]")
    assert main([*arguments, "run.steps=1", f"weights={out / 'best.safetensors'}"]) == 0
    assert f"weights: {out / 'best.safetensors'} (whole model" in capsys.readouterr().out


def test_input_sizes_that_leave_nothing_to_draw_train_at_the_image_size(world, tmp_path):
    """92 is no multiple of 32: its maps have as many cells as those of 96, whose anchors are others."""
    states = []
    for name, scale in (("plain", "[1,1]"), ("near", "[1,1.02]")):
        main, arguments = command("det", world, tmp_path / name)
        assert main([*arguments, "model.image_size=[92,92]", f"augment.input_scale={scale}", "run.steps=2"]) == 0
        states.append(checkpoint.load_state(tmp_path / name / "last.pt")["model"])
    assert_equal(*states)


@pytest.mark.parametrize(("size", "scale"), [(100, "[1,1.01]"), (100, "[0.7,0.7]"), (100, "[0.5,1.3]")])
def test_anchors_are_those_of_the_size_drawn(world, tmp_path, monkeypatch, size, scale):
    seen = []
    forward = det.DetectionLoss.forward

    def checked(self, raw, anchors, targets):
        seen.append((raw.class_logits.shape[1], len(anchors), int(anchors.max())))
        return forward(self, raw, anchors, targets)

    monkeypatch.setattr(det.DetectionLoss, "forward", checked)
    main, arguments = command("det", world, tmp_path / "run")
    own = [f"model.image_size=[{size},{size}]", f"augment.input_scale={scale}", "run.eval_every=9"]
    assert main([*arguments, *own]) == 0
    assert all(cells == anchors for cells, anchors, _ in seen)
    sizes = detection.training_sizes([size, size], json.loads(scale))
    assert len({cells for cells, _, _ in seen}) == min(len(sizes), 3)


def write_log(folder: Path) -> int:
    disk = Disk()
    log = Log(folder, SegConfig(), 0, disk)
    for step in range(2000):
        log.write(step, {"loss": 1.0})
    log.close()
    print(disk.summary())
    return NOT_WRITTEN


def on_a_full_disk(largest: int, write: Callable[[], int | None], folder: Path) -> tuple[int, str]:
    """The exit code and the output of a copy of this process in which no file can be larger than so many bytes."""
    printed = folder.with_suffix(".txt")

    def run() -> int:
        with printed.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            try:
                console.run(write)
            except SystemExit as stop:
                assert isinstance(stop.code, int)
                return stop.code
        return 99

    code = in_own_process(run)
    said = printed.read_text()
    assert "Traceback" not in said, said[-2000:]
    return code, said


def save_weights(path: Path) -> None:
    model_file.save_model(path, nn.Linear(400, 400), {})  # 640 kB


def save_state(path: Path) -> None:
    checkpoint.save_state(path, {"model": nn.Linear(400, 400).state_dict()})


@pytest.mark.parametrize("save", [save_weights, save_state])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, save):
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_text("old")
    code, said = on_a_full_disk(100_000, lambda: save(path), path.parent)
    assert code == 2 and said.startswith(f"error: {path}: cannot be written (") and said.count("\n") == 1
    assert path.read_text() == "old" and [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_log_on_a_full_disk_has_whole_rows_and_says_what_it_lacks(tmp_path):
    code, said = on_a_full_disk(20_000, lambda: write_log(tmp_path / "log"), tmp_path / "log")
    assert code == NOT_WRITTEN and "lacks the newest events, log.csv" in said, said
    rows = (tmp_path / "log" / "log.csv").read_text().splitlines()
    assert len(rows) > 1000 and rows[-1] == f"{len(rows) - 2},loss,1"


def test_a_run_on_a_full_disk_goes_on_and_says_at_the_end_what_it_lacks(world, tmp_path):
    main, arguments = command("seg", world, tmp_path / "run")
    code, said = on_a_full_disk(100_000, lambda: main(arguments), tmp_path / "run")
    assert code == NOT_WRITTEN and "error" not in said.replace("error: the disk was full", "")
    # TensorBoard's events hold pictures, so they do not fit either.
    assert "lacks the newest best.safetensors, events, last.pt; free space, then --resume" in said
    assert not {path.name for path in (tmp_path / "run").iterdir()} & {"last.pt", "best.safetensors", ".last.pt.part"}


def test_losses_that_are_not_finite_end_the_run_before_they_change_anything(world, tmp_path, monkeypatch, capsys):
    main, arguments = command("seg", world, tmp_path / "run")
    honest, steps = LOSSES["cross_entropy"], []

    def fail(logits, labels, **settings):
        steps.append(logits)
        return honest(logits, labels, **settings) * (math.inf if len(steps) > 2 else 1)

    with monkeypatch.context() as patch:
        patch.setitem(LOSSES, "cross_entropy", fail)
        assert main([*arguments, "run.save_every=1"]) == NON_FINITE
    said = capsys.readouterr().out
    assert len(steps) == 2 + IN_A_ROW and said.count("nothing was changed") == 1 + IN_A_ROW
    assert re.search(r"error: step 5: the loss is (-?inf|nan) \(cross_entropy_loss", said)
    assert said.split("images of step 3, the first of these: ")[1].count("_leftImg8bit.png") == 4
    saved = checkpoint.load_state(tmp_path / "run" / "last.pt")
    assert saved["step"] == 2 and saved["suspect"] == [0, 1]
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setitem(LOSSES, "cross_entropy", lambda logits, labels, **_: honest(logits, labels) * math.inf)
        assert main([*arguments, "--replay"]) == NON_FINITE
    assert re.search(r"first not finite: cross_entropy_loss \[\]: 1 of 1 values", capsys.readouterr().out)
    assert main([*arguments, "--replay"]) == 0  # the loss is honest again
    assert "first not finite: nothing" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_replay_names_the_first_layer_that_is_not_finite(world, tmp_path, capsys):
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, "run.steps=2"]) == 0
    state = checkpoint.load_state(tmp_path / "run" / "last.pt")
    state["model"]["backbone.blocks.3.project.conv.weight"] *= 1e38
    checkpoint.save_state(tmp_path / "run" / "last.pt", state)
    assert main([*arguments, "run.steps=2", "--replay"]) == NON_FINITE
    assert "first not finite: output of backbone.blocks.3.project.conv [" in capsys.readouterr().out


def test_single_steps_without_a_finite_loss_are_left_out(world, tmp_path, monkeypatch, capsys):
    main, arguments = command("det", world, tmp_path / "run")
    forward, steps = det.DetectionLoss.forward, []

    def fail(self, raw, anchors, targets):
        steps.append(raw)
        factor = math.nan if len(steps) in (2, 3, 5) else 1.0
        return {name: term * factor for name, term in forward(self, raw, anchors, targets).items()}

    monkeypatch.setattr(det.DetectionLoss, "forward", fail)
    assert main([*arguments, "run.save_every=1", "optim.ema=0.9", "run.log_every=1"]) == 0
    said = capsys.readouterr().out
    assert [f"step {step}: the loss or a gradient was not finite" in said for step in range(1, 7)] == [
        False, True, True, False, True, False,
    ]  # fmt: skip
    state = checkpoint.load_state(tmp_path / "run" / "last.pt")
    assert state["left_out"] == [0, 4, 3] and state["average"]["n_averaged"] == 3
    assert "nan" not in (tmp_path / "run" / "log.csv").read_text() and "5,left_out,3" in log_of(tmp_path / "run")


def test_a_run_folder_that_cannot_be_made_is_named(world, tmp_path):
    (tmp_path / "file").write_text("")
    main, arguments = command("seg", world, tmp_path / "file" / "run")
    with pytest.raises(InputError, match="cannot be written"):
        main(arguments)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_ends_the_run_with_one_line_and_loses_no_step(world, tmp_path, capsys, workers):
    shutil.copytree(world / "cityscapes", tmp_path / "cityscapes")
    broken = next((tmp_path / "cityscapes").glob("leftImg8bit/train/*/*.png"))
    broken.write_bytes(broken.read_bytes()[:-500])
    main, arguments = command("seg", tmp_path, tmp_path / "run")
    # Two images a step: the damaged one is met in one of the first four, and with this seed not in the first.
    arguments = [*arguments, "run.batch=2", "run.seed=1", f"data.workers={workers}"]
    with pytest.raises(SystemExit) as stop:
        console.run(lambda: main(arguments))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and broken.name in error
    assert 1 <= checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] < 4


@pytest.mark.slow
def test_the_command_line_turns_bad_input_into_one_line_and_exit_code_2(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "tools.train_seg", *command("seg", tmp_path / "nowhere", tmp_path / "run")[1]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1 and "nowhere" in run.stderr


ONE_OF_TWO_IS_NOT_FINITE = """
import os, sys
from pathlib import Path
from backbone import InputError
from seg.loss import LOSSES
from tools import train_seg
from tools.io.console import run

honest, process = LOSSES["cross_entropy"], os.environ["RANK"]
steps = []

def fail(logits, labels, **settings):
    steps.append(labels)
    return honest(logits, labels, **settings) * (float("inf") if process == "1" and len(steps) > 1 else 1)

LOSSES["cross_entropy"] = fail
code = train_seg.main(sys.argv[2:])
Path(sys.argv[1], f"{process}.txt").write_text(f"{code} {len(steps)}")

def end(logits, labels, **settings):
    if process == "1":
        raise InputError("street.png: the image is damaged")
    return honest(logits, labels, **settings)

LOSSES["cross_entropy"] = end
run(lambda: train_seg.main([*sys.argv[2:], f"run.out={sys.argv[1]}/second"]))
"""


@pytest.mark.slow
def test_processes_end_together_where_the_loss_of_one_is_not_finite_or_its_image_damaged(world, tmp_path):
    (tmp_path / "all.py").write_text(ONE_OF_TWO_IS_NOT_FINITE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [*torchrun, str(tmp_path / "all.py"), str(tmp_path), *command("seg", world, tmp_path / "run")[1]]
    run = subprocess.run([*line, "run.save_every=1"], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stderr[-3000:]  # torchrun's, where a process ends with another code than 0
    assert [(tmp_path / f"{process}.txt").read_text() for process in (0, 1)] == [f"{NON_FINITE} 4"] * 2
    assert run.stdout.count("step 4: the loss is inf in process 1 (cross_entropy_loss inf)") == 1
    state = checkpoint.load_state(tmp_path / "run" / "last.pt")
    assert state["step"] == 1 and state["suspect"] == [1, 2]
    assert run.stderr.count("error: street.png: the image is damaged") == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.cross=1", "loss.cross is unknown; did you mean cross_entropy?"),
        ("loss.cross_entropy=0", "loss: every factor is 0"),
        ("loss_settings.class_weights=[1,2]", r"class_weights \[1.0, 2.0\] must be 19 numbers"),
    ],
)
def test_losses_that_cannot_be_are_refused(world, tmp_path, override, message):
    main, arguments = command("seg", world, tmp_path / "run")
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        main([*arguments, override])
