"""Sweeps: what is searched, early ends, and that a sweep which was killed goes on as it would have."""

import csv
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from backbone import InputError
from tests.builders.commands import run_fresh
from tests.builders.runs import ROOT, in_own_process, kill_myself
from tools import sweep as command
from tools.sweeping.space import Choices, Range, read_experiment
from tools.sweeping.trial import Ended, read_scores, train, wait_until_free

SEG = ROOT / "configs" / "demo" / "seg.yaml"


def read(*overrides, task="seg", trials=None):
    return read_experiment(SEG, overrides, task, trials)


def test_lists_and_ranges_are_searched_and_other_overrides_are_fixed(tmp_path):
    experiment = read(
        "optim.lr=1e-4..1e-2:log",
        "run.batch=4..16:4",
        "optim.warmup=0..9",
        "optim.ema=0.0..0.5:0.25",
        "optim.name=[adamw, sgd]",
        "augment.crop_hw=[[32,64],[64,128]]",
        "augment.scale=[0.5,1.5]",
        "weights=[null,efficientnet_lite0]",
        "run.trackers=[tensorboard]",
        f"run.out={tmp_path}",
        trials=7,
    )
    assert experiment.space == {
        "optim.lr": Range(1e-4, 1e-2, None, log=True, whole=False),
        "run.batch": Range(4, 16, 4, log=False, whole=True),
        "optim.warmup": Range(0, 9, None, log=False, whole=True),
        "optim.ema": Range(0, 0.5, 0.25, log=False, whole=False),
        "optim.name": Choices(("adamw", "sgd")),
        "augment.crop_hw": Choices(("[32, 64]", "[64, 128]")),
        "weights": Choices(("null", "efficientnet_lite0")),
    }
    assert experiment.fixed == ["augment.scale=[0.5,1.5]", "run.trackers=[tensorboard]"]
    assert experiment.out == tmp_path and experiment.trials == 7 and experiment.settings["augment.scale"] == [0.5, 1.5]


def test_lists_alone_are_all_combined():
    experiment = read("optim.lr=[0.1,0.2]", "run.batch=[2,4,8]")
    assert experiment.trials == 6 and len(experiment.combinations()) == 6
    assert read("optim.lr=[0.1,0.2]", trials=9).trials == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.steps=3"], "nothing to search in"),
        (["optim.lr=1e-4..1e-2"], "--trials is missing"),
        (["optim.lr=[0.1]"], "give two or more"),
        (["optim.lr=[0.1,0.1]"], "listed twice"),
        (["optim.lr=[0.1,high]"], r"optim\.lr=high: .*optim\.lr"),
        (["optim.name=[adamw,adamm]"], r"did you mean adamw\?"),
        (["optim.rate=[1,2]"], "unknown key optim.rate"),
        (["optim.lr=0.1..0.01"], "a range rises"),
        (["optim.lr=0..0.01:log"], "from above 0 for log"),
        (["optim.lr=0.1..0.2:lgo"], "LOW..HIGH:log"),
        (["run.batch=2..8:0.5"], "its step is one too"),
        (["optim.lr=0.1..1000"], "must lie between 0 and 100"),
        (["run.out=[a,b]"], "the sweep's own folder"),
        (["optim.lr=[0.1"], "not a valid value"),
    ],
)
def test_what_cannot_be_searched_is_one_line(overrides, message):
    with pytest.raises(InputError, match=message) as refused:
        read(*overrides)
    assert "\n" not in str(refused.value)


def test_the_task_shows_in_the_configs_keys_or_is_asked_for(tmp_path):
    assert read_experiment(SEG, ["optim.lr=[0.1,0.2]"], None, None).task == "seg"
    (tmp_path / "a.yaml").write_text("{run: {steps: 5}}")
    with pytest.raises(InputError, match="could be for each of train_seg, train_det, train_backbone; say which by"):
        read_experiment(tmp_path / "a.yaml", ["optim.lr=[0.1,0.2]"], None, None)
    with pytest.raises(InputError, match=r"no such config file"):
        read_experiment(tmp_path / "b.yaml", [], None, None)


def test_refusals_come_without_heavy_libraries():
    code, _, errors, imported = run_fresh("sweep", str(SEG), "optim.lr=1e-4..1e-2")
    assert code == 2 and imported <= {"numpy"} and "--trials is missing" in errors
    code, output, _, imported = run_fresh("sweep", "--help")
    assert code == 0 and imported == set() and "1e-4..1e-2:log" in output


# The trainings of the tests below are told what to score: by an "optim.lr" of 0.3 it is best.


def score_at(step: int, lr: float) -> float:
    return step / 10 * (1 - abs(lr - 0.3))


def fake_training(monkeypatch, *, made=None, before=None, drawn=False):
    """Trainings that evaluate after steps 1 to 4, in no time.

    Arguments:
        made: a list that takes what was asked for.
        before: called with the number of the trial and of the step.
        drawn: draw the picture after each trial, which takes a second.
    """
    from tools.sweeping import sweep

    def fake(task, arguments, folder, score, stops):
        lr = next(float(text.partition("=")[2]) for text in arguments if text.startswith("optim.lr="))
        if made is not None:
            made.append((folder.name, lr))
        scores = {}
        for step in range(1, 5):
            if before is not None:
                before(int(folder.name[-4:]), step)
            scores[step] = score_at(step, lr)
            if stops(scores):
                return Ended(143, scores, "stopped")
        return Ended(0, scores, "done")

    monkeypatch.setattr(sweep, "train", fake)
    if not drawn:
        monkeypatch.setattr(sweep, "draw_results", lambda *_: None)


def swept(out: Path, *options: str) -> int:
    return command.main([str(SEG), f"run.out={out}", *options])


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_all_combinations_are_tried_once_and_the_best_comes_first(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    made = []
    fake_training(monkeypatch, made=made, drawn=True)
    assert swept(tmp_path, "optim.lr=[0.1,0.3,0.9]", "run.batch=[2,4]", "--no-prune") == 0
    assert [lr for _, lr in made] == [0.1, 0.1, 0.3, 0.3, 0.9, 0.9]
    table = rows(tmp_path)
    assert [row["optim.lr"] for row in table] == ["0.3", "0.3", "0.1", "0.1", "0.9", "0.9"]
    assert {row["outcome"] for row in table} == {"complete"} and table[0]["miou"] == "0.4" and table[0]["step"] == "4"
    said = capsys.readouterr().out
    assert f"best: {tmp_path / 'trial-0002' / 'best.safetensors'}" in said
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_trial_below_the_median_is_ended_early(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    fake_training(monkeypatch)
    lrs = "optim.lr=[0.3,0.31,0.29,0.32,0.9,0.28]"
    assert swept(tmp_path, lrs) == 0
    outcomes = {row["optim.lr"]: (row["outcome"], row["step"]) for row in rows(tmp_path)}
    assert outcomes["0.9"] == ("ended early", "1") and outcomes["0.3"] == ("complete", "4")


RANGE = ["optim.lr=0.01..1.0:log", "optim.name=[adamw,sgd]", "--trials", "12"]


def test_a_sweep_that_is_killed_goes_on_as_it_would_have(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    fake_training(monkeypatch)
    assert swept(tmp_path / "whole", *RANGE) == 0
    assert max(float(row["miou"]) for row in rows(tmp_path / "whole")) > 0.35

    def die(trial, step):
        if (trial, step) in ((3, 2), (11, 1)) and not (tmp_path / f"died-{trial}").exists():
            (tmp_path / f"died-{trial}").touch()
            kill_myself()

    def run(*options):
        return in_own_process(lambda: swept(tmp_path / "cut", *RANGE, *options))

    fake_training(monkeypatch, before=die)
    assert [run(), run("--resume"), run("--resume")] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")


def test_a_sweep_goes_on_with_more_trials_but_with_nothing_else_changed(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    made = []
    fake_training(monkeypatch, made=made)
    with pytest.raises(InputError, match="holds no sweep; start it without --resume"):
        swept(tmp_path, "optim.lr=0.1..0.9", "--trials", "2", "--resume")
    assert swept(tmp_path, "optim.lr=0.1..0.9", "--trials", "2") == 0
    with pytest.raises(InputError, match="holds a sweep already; add --resume"):
        swept(tmp_path, "optim.lr=0.1..0.9", "--trials", "3")
    for other, what in (("optim.lr=0.1..0.8", r"space of optim\.lr"), ("run.steps=7", r"run\.steps")):
        with pytest.raises(InputError, match=f"was made with another {what}; a sweep that goes on keeps it"):
            swept(tmp_path, "optim.lr=0.1..0.9", other, "--trials", "3", "--resume")
    assert swept(tmp_path, "optim.lr=0.1..0.9", "--trials", "3", "--resume") == 0
    assert [name for name, _ in made] == ["trial-0000", "trial-0001", "trial-0002"]


def test_a_trial_that_fails_is_told_and_the_first_that_cannot_begin_ends_the_sweep(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    from tools.sweeping import sweep

    codes = iter([0, 20, 0])
    monkeypatch.setattr(sweep, "train", lambda *_: Ended(code := next(codes), {1: 0.5} if not code else {}, "error: x"))
    assert swept(tmp_path / "a", "optim.lr=[0.1,0.2,0.3]") == 0
    assert "trial 1: failed with code 20: error: x" in capsys.readouterr().out
    assert [row["outcome"] for row in rows(tmp_path / "a")] == ["complete", "complete", "failed"]
    monkeypatch.setattr(sweep, "train", lambda *_: Ended(2, {}, "error: data/x: no such folder"))
    with pytest.raises(InputError, match=r"trial 0: data/x: no such folder; see .*output\.txt"):
        swept(tmp_path / "b", "optim.lr=[0.1,0.2,0.3]")


def test_the_trials_process_saves_when_the_sweep_is_told_to_stop(tmp_path, monkeypatch):
    pytest.importorskip("optuna")

    def stop(trial, step):
        if (trial, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    fake_training(monkeypatch, before=stop)
    assert in_own_process(lambda: swept(tmp_path, "optim.lr=[0.1,0.2,0.3]")) == 128 + signal.SIGTERM
    fake_training(monkeypatch)
    assert swept(tmp_path, "optim.lr=[0.1,0.2,0.3]", "--resume") == 0
    assert len(rows(tmp_path)) == 3


TRAINER = """#!/bin/sh
for argument; do case $argument in run.out=*) out=${argument#run.out=};; esac; done
trap 'echo terminated; exit 143' TERM
echo "$@" >> $out/arguments; touch $out/config.yaml; echo step,name,value > $out/log.csv
for step in 1 2 3 4 5 6; do
    printf "$step,loss,9\\n$step,val/miou,0.$step\\n$step,val/miou/x,1\\n" >> $out/log.csv; sleep 0.4
done
echo finished
"""


def test_a_training_is_watched_through_its_log_and_ended_by_a_signal(tmp_path, monkeypatch):
    program = tmp_path / "trainer"
    program.write_text(TRAINER)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    seen = []

    def stops(scores):
        seen.append(dict(scores))
        return len(scores) >= 2

    folder = tmp_path / "trial-0000"
    ended = train("seg", ["a.yaml", "optim.lr=1"], folder, "miou", stops)
    assert ended.code == 143 and ended.last_line == "terminated" and len(ended.scores) < 6
    assert {1: 0.1, 2: 0.2}.items() <= ended.scores.items() and {1: 0.1} in seen
    assert train("seg", ["a.yaml"], folder, "miou", lambda scores: False).code == 0
    first, second = (folder / "arguments").read_text().splitlines()
    assert first == f"-m tools.train_seg a.yaml optim.lr=1 run.out={folder}" and second.endswith("--resume")


def test_only_whole_lines_and_finite_scores_are_read(tmp_path):
    log = tmp_path / "log.csv"
    assert read_scores(log, "AP") == {}
    log.write_text("step,name,value\n3,val/AP,0.25\n6,val/AP,nan\n9,val/AP,0.5\n12,val/AP,0.7")
    assert read_scores(log, "AP") == {3: 0.25, 9: 0.5}


def test_a_training_of_a_killed_sweep_is_waited_for(tmp_path, capsys):
    from tools.run.lock import lock_folder

    ready = os.pipe()

    def hold():
        with lock_folder(tmp_path / "run", is_main=True):
            os.write(ready[1], b"x")
            time.sleep(1.5)
        return 0

    child = os.fork()
    if child == 0:
        os._exit(hold())
    assert os.read(ready[0], 1) == b"x"
    began = time.perf_counter()
    wait_until_free(tmp_path / "run")
    assert time.perf_counter() - began > 1 and os.waitpid(child, 0)[1] == 0
    assert f"process {child}" in capsys.readouterr().out
