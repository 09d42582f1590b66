"""Mixed precision changes a run's numbers a little and its average not at all."""

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open

from tests.builders.runs import command
from tools.run import loop
from tools.run.curves import read_log


@pytest.mark.parametrize("task", ["seg", "det"])
def test_losses_and_gradients_in_bf16_are_those_in_float32_to_its_rounding(world, tmp_path, task):
    logs = []
    for precision in ("no", "bf16"):
        main, arguments = command(task, world, tmp_path / precision)
        own = [f"run.precision={precision}", "run.steps=1", "run.log_every=1", "run.samples=0"]
        assert main([*arguments, *own]) == 0
        AcceleratorState._reset_state()  # which keeps a process's first precision
        logs.append({name: points[0][1] for name, points in read_log(tmp_path / precision / "log.csv").items()})
    names = [name for name in logs[0] if "loss" in name]
    assert len(names) >= 2
    for name in names:
        assert logs[1][name] == pytest.approx(logs[0][name], rel=0.02)
        assert logs[1][name] != logs[0][name]
    assert logs[1]["gradient_norm"] == pytest.approx(logs[0]["gradient_norm"], rel=0.1)


def test_an_evaluation_leaves_the_average_as_it_is_where_half_floats_would_overflow(world, tmp_path, monkeypatch):
    large, evaluate, seen = 70001.0, loop.evaluate_and_keep_best, []

    def watched(task, run, state, *others):
        state.average.module.head.gate.weight.data.view(-1)[0] = large
        before = {name: value.clone() for name, value in state.average.state_dict().items()}
        evaluate(task, run, state, *others)
        after = state.average.state_dict()
        seen.append(all(torch.equal(before[name], after[name]) for name in after))
        assert {value.dtype for value in after.values()} == {torch.float32, torch.int64}

    monkeypatch.setattr(loop, "evaluate_and_keep_best", watched)
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, "run.precision=bf16", "run.steps=1"]) == 0
    assert seen == [True]
    with safe_open(tmp_path / "run" / "best.safetensors", "pt") as kept:
        assert kept.get_tensor("head.gate.weight").view(-1)[0] == large
