"""What a run holds does not grow with its evaluations."""

from pathlib import Path

import numpy as np
import pytest

from tests.builders.runs import command
from tools.run import loop

EVALUATIONS, SETTLED = 50, 20
"""How many there are, and after how many the memory is no longer that of a beginning."""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seg", "det"])
def test_memory_has_no_slope_over_fifty_evaluations(world, tmp_path, monkeypatch, task):
    held, original = [], loop.evaluate_and_keep_best

    def evaluate(*arguments):
        original(*arguments)
        status = Path("/proc/self/status").read_text()
        held.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)  # MiB

    monkeypatch.setattr(loop, "evaluate_and_keep_best", evaluate)
    main, arguments = command(task, world, tmp_path / "run")
    small = ["augment.crop_hw=[32,32]", "data.val_limit=2"] if task == "seg" else ["model.image_size=[64,64]"]
    own = [f"run.steps={EVALUATIONS}", "run.eval_every=1", "run.save_every=10", "run.batch=2", "model.width=0.35"]
    assert main([*arguments, *own, *small]) == 0
    assert len(held) == EVALUATIONS
    slope = np.polyfit(range(EVALUATIONS - SETTLED), held[SETTLED:], 1)[0]
    assert slope < 0.2, (
        held
    )  # what is given back is no leak; a copy of the network is 1 MiB, a batch with its gradients several
