"""A run reports to experiment trackers by one key, and a resumed run goes on where they have it."""

import json
import sys

import pytest

from backbone import InputError
from tests.builders.runs import command
from tools.run.config import Run, SegConfig
from tools.run.disk import Disk
from tools.run.log import Log
from tools.run.processes import make_accelerator

WANDB = """
import json, pathlib
class Error(Exception): pass
calls = []
fails = False
class Run:
    def log(self, values, step=None):
        if fails: raise Error("server is gone\\nand more")
        calls.append(["log", step, {k: v if isinstance(v, float) else [i.shape for i in v] for k, v in values.items()}])
    def finish(self): calls.append(["finish"])
def init(**named):
    if fails: raise Error("no login\\nand more")
    calls.append(["init", named])
    return Run()
class config:
    update = staticmethod(lambda values, allow_val_change: calls.append(["config", values]))
Image = lambda image: image
"""
MLFLOW = """
import types
from mlflow import exceptions
calls = []
utils = types.SimpleNamespace(validation=types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100))
search_experiments = lambda filter_string: []
create_experiment = lambda name, artifact_location, tags: name
def start_run(run_id, experiment_id, run_name, **named):
    calls.append(["start", run_id, experiment_id, run_name])
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "the-run"))
def log_params(values): calls.append(["params", values])
def log_metrics(values, step): calls.append(["metrics", step, values])
def end_run(): calls.append(["end"])
"""


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    """Packages that write down what they are told."""
    folder = tmp_path / "packages"
    (folder / "mlflow").mkdir(parents=True)
    (folder / "wandb.py").write_text(WANDB)
    (folder / "mlflow" / "__init__.py").write_text(MLFLOW)
    (folder / "mlflow" / "exceptions.py").write_text("class MlflowException(Exception): pass\n")
    for name in ("wandb", "mlflow", "mlflow.exceptions"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.syspath_prepend(folder)
    import mlflow
    import wandb

    make_accelerator()  # accelerate's trackers ask which process this is
    yield wandb, mlflow
    for name in ("wandb", "mlflow", "mlflow.exceptions"):
        del sys.modules[name]


def reported(folder, trackers, step):
    """What a log with these trackers writes for one step."""
    log = Log(folder, SegConfig(run=Run(trackers=trackers)), step - 1, Disk())
    log.write(step, {"loss": 1.5, "val/iou/a(b)": 0.25, "val/iou/absent": float("nan")})
    log.close()


def test_trackers_get_config_and_values_and_know_a_resumed_run_again(stubs, tmp_path):
    wandb, mlflow = stubs
    reported(tmp_path / "run", ["wandb", "mlflow"], 1)
    [(_, begun), (_, config), row, end] = wandb.calls
    assert begun | {"id": ""} == {
        "project": "taproot",
        "name": "run",
        "dir": str(tmp_path / "run"),
        "resume": "allow",
        "id": "",
    }
    assert config["optim.ema"] == 0.999 and end == ["finish"]
    assert row == ["log", 1, {"loss": 1.5, "val/iou/a(b)": 0.25}]
    assert mlflow.calls[0] == ["start", None, "taproot", "run"] and mlflow.calls[-1] == ["end"]
    assert mlflow.calls[-2] == ["metrics", 1, {"loss": 1.5, "val/iou/a_b_": 0.25}]
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {"wandb": begun["id"], "mlflow": "the-run"}
    assert not list((tmp_path / "run").glob("events.*"))

    wandb.calls.clear(), mlflow.calls.clear()
    reported(tmp_path / "run", ["tensorboard", "wandb", "mlflow"], 2)
    assert [call[0] for call in wandb.calls] == ["init", "log", "finish"] and wandb.calls[0][1]["id"] == begun["id"]
    assert [call[0] for call in mlflow.calls] == ["start", "metrics", "end"] and mlflow.calls[0][1] == "the-run"
    assert len(list((tmp_path / "run").glob("events.*"))) == 1


def test_a_tracker_that_fails_at_the_start_is_told_in_one_line(stubs, tmp_path):
    stubs[0].fails = True
    with pytest.raises(InputError, match=r"^run\.trackers=wandb: no login; set it up, or leave it out$"):
        reported(tmp_path / "run", ["wandb"], 1)


def test_a_tracker_that_fails_later_does_not_end_the_run(stubs, tmp_path, capsys):
    log = Log(tmp_path / "run", SegConfig(run=Run(trackers=["wandb", "mlflow"])), 0, Disk())
    stubs[0].fails = True
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
    log.close()
    assert capsys.readouterr().out == "warning: wandb: server is gone; the run goes on without it\n"
    assert [call[1] for call in stubs[1].calls if call[0] == "metrics"] == [1, 2]
    assert (tmp_path / "run" / "log.csv").read_text().split() == ["step,name,value", "1,loss,1", "2,loss,1"]


def test_a_missing_package_and_an_unknown_tracker_are_refused_before_anything_is_written(world, tmp_path, monkeypatch):
    main, arguments = command("seg", world, tmp_path / "run")
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=f"run.trackers={name}: needs {name}, not installed; pip install {name}"):
            main([*arguments, f"run.trackers=[tensorboard,{name}]"])
    with pytest.raises(InputError, match=r"run\.trackers is 'wandbb'; did you mean wandb\?"):
        main([*arguments, "run.trackers=[wandbb]"])
    assert not (tmp_path / "run").exists()
