"""A step that runs out of memory ends the run in one line, or is made again with smaller parts of the same batch."""

import signal

import pytest
import torch

from backbone import InputError
from tests.builders.runs import assert_equal, command, in_own_process, interrupted, kill_myself, log_of
from tools.run import checkpoint, loop
from tools.run.config import Run
from tools.run.guard import Guard
from tools.run.loading import Loaded
from tools.run.memory import split
from tools.run.order import SampleOrder, check_batch
from tools.run.schedule import learning_rate


def limit_memory(monkeypatch, images, *, from_step=0):
    """A backward pass that runs out of memory with more images than this, when the forward pass has moved the norms."""
    to_device, backward = loop.to_device, Guard.backward
    steps, sizes = [0], []

    def note(batch, device):
        sizes.append(len(batch.image if hasattr(batch, "image") else batch.images))
        return to_device(batch, device)

    def rate(optim, step, number):
        steps.append(step)
        return learning_rate(optim, step, number)

    def run_out(self, total):
        if steps[-1] >= from_step and sizes[-1] > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")
        backward(self, total)

    monkeypatch.setattr(loop, "to_device", note)
    monkeypatch.setattr(loop, "learning_rate", rate)
    monkeypatch.setattr(Guard, "backward", run_out)
    return sizes


def state_of(folder):
    state = checkpoint.load_state(folder / "last.pt")
    del state["config"]
    return state


def test_parts_are_split_as_more_parts_would_have_been():
    for before, after in ((1, 2), (2, 4), (2, 8), (3, 6)):
        images = torch.arange(48)
        index = [key[1] for key in next(iter(SampleOrder(48, Run(steps=1, batch=48))))]
        loaded = [Loaded((images[index[part::before]],), [str(part)]) for part in range(before)]
        tuples = [Loaded(Pair(part.batch[0], part.batch[0]), part.faults) for part in loaded]
        found = [part.batch.image.tolist() for part in split(tuples, after // before)]
        assert found == [index[part::after] for part in range(after)]
        faults = [fault for part in split(tuples, after // before) for fault in part.faults]
        assert faults == [str(part) for part in range(before)]


class Pair(tuple):
    """Two tensors of a batch."""

    def __new__(cls, image, labels):
        return super().__new__(cls, (image, labels))

    image = property(lambda self: self[0])


def test_a_run_that_runs_out_of_memory_says_what_to_do_and_has_changed_nothing(world, tmp_path, monkeypatch):
    main, arguments = command("seg", world, tmp_path / "run")
    with monkeypatch.context() as patch:
        limit_memory(patch, 3, from_step=2)
        with pytest.raises(
            InputError,
            match=r"step 3: out of memory with 4 images at a time \(CUDA out of memory\. "
            r"Tried to allocate 2\.00 GiB\.\); run\.accumulate=2 halves .* run\.oom=reduce",
        ) as told:
            main(arguments)
    assert "\n" not in str(told.value)
    saved = state_of(tmp_path / "run")
    main, arguments = command("seg", world, tmp_path / "other")
    assert interrupted(main, arguments, 2, monkeypatch) == 128 + signal.SIGTERM
    other = state_of(tmp_path / "other")
    for state in (saved, other):
        del state["optimizer"]["param_groups"]  # have the learning rate of the step to come
    assert_equal(saved, other)


def test_a_reduced_run_is_that_of_more_parts_from_the_start(world, tmp_path, monkeypatch, capsys):
    main, arguments = command("seg", world, tmp_path / "parts")
    assert main([*arguments, "run.accumulate=2"]) == 0
    sizes = limit_memory(monkeypatch, 3)
    main, arguments = command("seg", world, tmp_path / "reduced")
    assert main([*arguments, "run.oom=reduce"]) == 0
    assert sizes == [4, 2, 2] + [2] * 10
    said = capsys.readouterr().out
    assert said.count("warning: step 1: out of memory with 4 images at a time; going on as with run.accumulate=2") == 1
    assert_equal(*(state_of(tmp_path / name) for name in ("parts", "reduced")))
    assert log_of(tmp_path / "parts") == log_of(tmp_path / "reduced")


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_reduced_run_resumes_to_the_bit(world, tmp_path, monkeypatch, task):
    main, arguments = command(task, world, tmp_path)
    own = ["run.oom=reduce", "run.samples=0", "run.eval_every=9", "run.save_every=1"]
    whole, cut = ([*arguments, *own, f"run.out={tmp_path / name}"] for name in ("whole", "cut"))
    limit_memory(monkeypatch, 2, from_step=2)
    assert main(whole) == 0
    limited = loop.learning_rate

    def killed():
        def rate(optim, step, steps):
            if step == 4:
                kill_myself()
            return limited(optim, step, steps)

        loop.learning_rate = rate
        return main(cut)

    assert in_own_process(killed) == -signal.SIGKILL
    assert state_of(tmp_path / "cut")["accumulate"] == 2
    assert main([*cut, "--resume"]) == 0
    assert_equal(*(state_of(tmp_path / name) for name in ("whole", "cut")))


def test_parts_of_one_image_and_several_processes_are_refused(world, tmp_path, monkeypatch):
    main, arguments = command("seg", world, tmp_path / "run")
    limit_memory(monkeypatch, 0)
    with pytest.raises(InputError, match="step 1: out of memory with 2 images at a time, which cannot be halved"):
        main([*arguments, "run.oom=reduce"])
    with pytest.raises(InputError, match=r"run\.oom=reduce is for one process, here are 2; give run\.accumulate"):
        check_batch(Run(oom="reduce"), 2)
