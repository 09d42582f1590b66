"""The learning rate is a function of the step."""

import pytest
import torch
from torch import nn

from tests.builders.runs import command
from tools.run.config import Optim
from tools.run.find_lr import range_rate
from tools.run.schedule import for_batch, learning_rate


def test_schedules_start_with_warmup_and_end_near_zero():
    optim = Optim(lr=1.0, warmup=10, schedule="poly", power=0.9)
    rates = [learning_rate(optim, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(rates) == rates[10] == 1.0 and rates[-1] < 0.02
    short = [learning_rate(optim, step, 20) for step in range(20)]
    assert short[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])  # a quarter of a short run, which has to come down
    assert short[5] == 1.0 > short[6] and short[-1] < 0.1
    cosine = Optim(lr=1.0, warmup=0, schedule="cosine")
    assert learning_rate(cosine, 50, 100) == pytest.approx(0.5)


def test_the_rate_grows_with_the_batch_where_a_recipe_says_for_which_it_is(world, tmp_path, capsys):
    assert for_batch(Optim(lr=0.01), 8) == Optim(lr=0.01)
    assert for_batch(Optim(lr=0.01, lr_for_batch=16), 8).lr == pytest.approx(0.005)
    main, arguments = command("seg", world, tmp_path / "run")
    own = ["optim.lr=0.01", "optim.lr_for_batch=16", "optim.warmup=0", "run.steps=1", "run.log_every=1"]
    assert main([*arguments, *own]) == 0
    assert "learning rate 0.0025 for run.batch 4; given as 0.01 for a batch of 16" in capsys.readouterr().out
    assert "1,lr,0.0025" in (tmp_path / "run" / "log.csv").read_text()


def test_schedules_are_functions_of_the_step():
    step = Optim(lr=1.0, warmup=0, schedule="step", gamma=0.5, step_every=3)
    assert [learning_rate(step, n, 9) for n in range(9)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    cyclic = Optim(lr=1.0, min_lr=0.2, warmup=0, schedule="triangular2", half_cycle=2)
    rates = [learning_rate(cyclic, n, 9) for n in range(9)]
    weights = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.2, momentum=0.9)
    theirs = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.2, 1.0, step_size_up=2, mode="triangular2")
    expected = []
    for _ in range(9):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates == pytest.approx(expected)
    ranged = Optim(lr=1.0, min_lr=0.01, warmup=2)  # which a range test leaves out
    assert [range_rate(ranged, n, 3) for n in range(3)] == pytest.approx([0.01, 0.1, 1])
    cosine = Optim(lr=1.0, min_lr=0.1, warmup=0, schedule="cosine")
    assert learning_rate(cosine, 0, 100) == 1 and learning_rate(cosine, 99, 100) == pytest.approx(0.1, abs=1e-3)
