"""Options of long runs: accumulated gradients, patience, the best evaluations kept and averaged, threads."""

import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbone import InputError
from tests.builders.classes import draw_classes
from tests.builders.runs import assert_equal, command, in_own_process, interrupted, kill_myself
from tools import average, eval_seg, train_backbone
from tools.io.model_file import load_description
from tools.run import checkpoint, loop, segmentation
from tools.run.config import Run
from tools.run.order import SampleOrder, check_batch
from tools.run.schedule import learning_rate
from tools.run.state import TrainingState


def test_parts_share_a_batch_among_them():
    whole = list(SampleOrder(10, Run(steps=3, batch=8), process=1, num_processes=2))
    parts = list(SampleOrder(10, Run(steps=3, batch=8, accumulate=2), process=1, num_processes=2))
    assert len(parts) == len(SampleOrder(10, Run(steps=3, batch=8, accumulate=2))) == 6
    for step, batch in enumerate(whole):
        one, other = parts[2 * step : 2 * step + 2]
        assert len(one) == len(other) == 2 and sorted(one + other) == sorted(batch)
    check_batch(Run(batch=8, accumulate=2), 2)
    for batch in (4, 6):
        with pytest.raises(InputError, match=r"run\.batch \d must be a multiple of run\.accumulate 2, times 2 proc"):
            check_batch(Run(batch=batch, accumulate=2), 2)
    with pytest.raises(InputError, match="gives each process one image, and batch norm needs at least two"):
        check_batch(Run(batch=2), 2)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, monkeypatch):
    """With norms that do not look at the batch, and a loss that is a mean over images."""
    prepare = TrainingState.prepare_step

    def still(self, step, rate):
        prepare(self, step, rate)
        self.parallel.eval()

    monkeypatch.setattr(TrainingState, "prepare_step", still)
    draw_classes(tmp_path / "data")
    states = []
    for parts in (1, 2, 4):
        out = tmp_path / str(parts)
        own = ["model.name=mobilenet_v3_small", "model.width=0.35", "augment.size=32", "run.batch=8", "run.steps=3"]
        own += [f"data.root={tmp_path / 'data'}", f"run.out={out}", f"run.accumulate={parts}", "data.workers=0"]
        own += ["optim.name=sgd", "optim.lr=0.05", "optim.warmup=0", "optim.ema=0"]
        (tmp_path / "c.yaml").write_text("{}")
        assert train_backbone.main([str(tmp_path / "c.yaml"), *own]) == 0
        states.append(checkpoint.load_state(out / "last.pt")["model"])
    for name, value in states[0].items():
        for other in states[1:]:
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


def test_a_run_in_parts_resumes_to_the_bit(world, tmp_path, monkeypatch):
    states = []
    for name in ("whole", "cut"):
        main, arguments = command("seg", world, tmp_path / name)
        arguments = [*arguments, "run.accumulate=2", "run.steps=4", "run.eval_every=9"]
        if name == "cut":
            assert interrupted(main, arguments, 2, monkeypatch) == 128 + signal.SIGTERM
            arguments = [*arguments, "--resume"]
        assert main(arguments) == 0
        states.append(checkpoint.load_state(tmp_path / name / "last.pt"))
        del states[-1]["config"]
    assert_equal(*states)


def scores(monkeypatch, values):
    """Evaluations of a segmenter that give these scores, by the number of the evaluation's step."""
    evaluate = segmentation.evaluate_model

    def scored(*others, **named):
        found = evaluate(*others, **named)
        found.metrics["miou"] = values[len(given)]
        given.append(found)
        return found

    given = []
    monkeypatch.setattr(segmentation, "evaluate_model", scored)


def test_patience_ends_a_run_that_gets_no_better_and_resuming_does_not_revive_it(world, tmp_path, monkeypatch, capsys):
    main, arguments = command("seg", world, tmp_path / "run")
    arguments = [*arguments, "run.eval_every=1", "run.patience=2"]
    with monkeypatch.context() as patch:
        scores(patch, [0.1, 0.3, 0.3, 0.2, 0.9, 0.9])
        assert main(arguments) == 0
    assert "ended after step 4: 2 evaluations without a better score" in capsys.readouterr().out
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 4
    assert load_description(tmp_path / "run" / "best.safetensors")["step"] == 2
    assert main([*arguments, "--resume"]) == 0
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 4


def test_the_best_evaluations_are_kept_and_their_average_is_a_model(world, tmp_path, monkeypatch):
    main, arguments = command("seg", world, tmp_path / "run")
    arguments = [*arguments, "run.eval_every=1", "run.keep_best=2", "run.save_every=2", "optim.ema=0", "run.steps=5"]
    scores(monkeypatch, [0.2, 0.4, 0.1, 0.3, 0.3])

    def killed():
        def rate(optim, step, steps):
            if step == 3:  # after evaluations that last.pt does not know
                kill_myself()
            return learning_rate(optim, step, steps)

        loop.learning_rate = rate
        return main(arguments)

    assert in_own_process(killed) == -signal.SIGKILL
    scores(monkeypatch, [0.1, 0.3, 0.3])
    assert main([*arguments, "--resume"]) == 0
    kept = sorted((tmp_path / "run" / "best").iterdir())
    assert [path.name for path in kept] == ["step-0000002.safetensors", "step-0000004.safetensors"]
    out = tmp_path / "average.safetensors"
    assert average.main([str(tmp_path / "run" / "best"), "--out", str(out)]) == 0
    one, other, mean = (load_file(path) for path in (*kept, out))
    weight = "head.gate.weight"
    assert not torch.equal(one[weight], other[weight])
    torch.testing.assert_close(mean[weight], (one[weight] + other[weight]) / 2)
    assert load_description(out)["average_of"] == [path.name for path in kept]
    monkeypatch.undo()
    data = str(world / "cityscapes")
    assert eval_seg.main(["--weights", str(out), "--data", data, "--out", str(tmp_path / "scored")]) == 0


def test_what_has_no_average_is_refused(finished, tmp_path):
    seg, det = (str(finished[task] / "best.safetensors") for task in ("seg", "det"))
    with pytest.raises(InputError, match=r"its task is not that of .*; average checkpoints of one run"):
        average.main([seg, det, "--out", str(tmp_path / "a.safetensors")])
    with pytest.raises(InputError, match="needs two weights files or more"):
        average.main([seg, "--out", str(tmp_path / "a.safetensors")])
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="bare weights"):
        average.main([seg, str(tmp_path / "bare.safetensors"), "--out", str(tmp_path / "a.safetensors")])
    assert not (tmp_path / "a.safetensors").exists()


def test_threads_are_as_asked_for(world, tmp_path):
    main, arguments = command("seg", world, tmp_path / "run")

    def run():
        code = main([*arguments, "run.steps=1", "run.threads=2"])
        return code or torch.get_num_threads()

    assert in_own_process(run) == 2
