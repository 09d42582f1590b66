"""A training step asks the device for nothing: all operations of whole steps of the loop are seen, for each task."""

import pytest

from tests.builders.classes import draw_classes
from tests.builders.operations import WAITING, Recorder
from tests.builders.runs import command
from tools import train_backbone
from tools.run import guard, loading, loop
from tools.run.schedule import learning_rate

FIRST, LAST = 1, 3
"""Steps that are recorded, from the start of the one to the start of the other; no row of the log is due in them."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("classes"))


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("seg", ["loss.ohem=1"]),
        ("det", []),
        ("det", ["model.head=pico96", "model.one_to_one=true"]),
        ("joint", ["detection.model.head=pico96", "compare_gradients=0", "run.batch=8"]),
        ("backbone", []),
    ],
)
def test_no_step_waits_for_a_number(world, images, tmp_path, monkeypatch, task, keys):
    """As on a GPU, where the guard takes steps back."""
    recorder = record(monkeypatch, reads_at_once=False)
    assert train(task, world, images, tmp_path / "run", *keys) == 0
    assert recorder.operations.count("convolution_backward") > 100
    assert not WAITING & set(recorder.operations)


def test_a_number_that_is_looked_at_is_seen(world, images, tmp_path, monkeypatch):
    """As on a CPU, where the guard looks at the gradient's norm."""
    recorder = record(monkeypatch, reads_at_once=True)
    assert train("backbone", world, images, tmp_path / "run") == 0
    assert WAITING & set(recorder.operations)


def record(monkeypatch, *, reads_at_once):
    recorder, original = Recorder(), guard.Guard.__init__

    def rate(optim, step, steps):
        if step == FIRST:
            recorder.__enter__()
        elif step == LAST:
            recorder.__exit__(None, None, None)
        return learning_rate(optim, step, steps)

    def begin(self, *arguments):
        original(self, *arguments)
        self.reads_at_once = reads_at_once

    def batches(*arguments):
        data = loading.batches(*arguments)
        while True:
            recorder.listens = False  # augmentation draws numbers, but none from the device
            parts = next(data, None)
            recorder.listens = True
            if parts is None:
                return
            yield parts

    monkeypatch.setattr(loop, "learning_rate", rate)
    monkeypatch.setattr(loop, "batches", batches)
    monkeypatch.setattr(guard.Guard, "__init__", begin)
    return recorder


def train(task, world, images, out, *keys):
    own = ["run.steps=4", "run.log_every=100", "run.eval_every=4", "run.accumulate=2", "optim.clip=1", *keys]
    if task != "backbone":
        main, arguments = command(task, world, out)
        return main([*arguments, *own])
    config = out.with_suffix(".yaml")
    config.write_text("model: {name: mobilenet_v3_small, width: 0.35}\naugment: {size: 32}\n")
    shared = [f"data.root={images}", "data.workers=0", "run.batch=4", f"run.out={out}"]
    return train_backbone.main([str(config), *shared, *own])
