"""A step whose loss or gradient is not finite changes nothing: neither weights nor anything that follows them."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.builders.runs import assert_equal
from tools.run.config import Optim
from tools.run.guard import Guard, select
from tools.run.optimizer import make_average, make_optimizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Setting:
    """A small network with norms, its optimizer and average; a step of it, sound or not."""

    def __init__(self, name: str, dtype: torch.dtype, at_once: bool, clip: float) -> None:
        torch.manual_seed(0)
        self.dtype, self.clip = dtype, clip
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 2, 1))
        optim = Optim(name=name, lr=0.01)
        self.average = make_average(self.model)
        accelerator = Accelerator(cpu=True)
        optimizer = accelerator.prepare(make_optimizer([self.model.parameters()], optim))
        self.guard = Guard(accelerator, self.model, optimizer, self.average, 0.9)
        self.guard.reads_at_once = at_once

    def make_step(self, number: int, fault: str | None = None) -> None:
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        if fault == "image":
            images[0, 0, 0, 0] = torch.nan
        self.guard.begin()
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not torch.float32):
            outputs = self.model.train()(images)
        loss = outputs.float().square().mean()
        if fault == "loss":  # whose gradient is finite
            loss = loss + torch.inf
        if fault == "gradient":  # of a loss that is finite
            loss = loss + (outputs.float().sum() * 0).sqrt()
        if fault == "statistics":  # of a loss and a gradient that are finite
            self.model[1].running_var.data.fill_(torch.inf)  # unseen by autograd
        self.guard.backward(loss)
        self.guard.step(number, self.clip)

    def state(self) -> dict:
        guard = self.guard
        parts = {"model": self.model, "optimizer": guard.optimizer, "average": self.average}
        return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})


@pytest.mark.parametrize("at_once", [True, False], ids=["left out", "taken back"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "clip"), [("adamw", 0.0), ("sgd", 0.1), ("rmsprop", 0.0)])
def test_a_step_that_is_not_finite_changes_nothing(name, clip, precision, at_once):
    setting, sound = (Setting(name, PRECISIONS[precision], at_once, clip) for _ in range(2))
    faults = ["image", "loss", "gradient", "statistics"] * 5
    for number, fault in enumerate(faults):
        for one in (setting, sound):
            one.make_step(number)
        before = setting.state()
        setting.make_step(100 + number, fault)
        assert_equal(before, setting.state())
        assert setting.guard.counts.tolist() == [1, 100 + number, number + 1]
    assert_equal(sound.state(), setting.state())
    assert sound.guard.counts.tolist() == [0, 0, 0]
    assert not torch.equal(before["average"]["module.0.weight"], before["model"]["0.weight"])


@pytest.mark.parametrize("at_once", [True, False], ids=["left out", "taken back"])
def test_the_first_of_several_steps_left_out_is_known(at_once):
    setting = Setting("adamw", torch.float32, at_once, 0)
    weight = setting.model[0].weight.detach().clone()
    for number in range(3):
        setting.make_step(number, "image")
    assert torch.equal(setting.model[0].weight, weight)
    assert setting.guard.counts.tolist() == [3, 0, 3]
    for number, fault in ((3, None), (4, "loss"), (5, "gradient")):
        setting.make_step(number, fault)
    assert setting.guard.counts.tolist() == [2, 4, 5]


def test_both_ways_make_the_same_steps():
    one, other = (Setting("adamw", torch.float32, at_once, 0.5) for at_once in (True, False))
    for number in range(4):
        one.make_step(number)
        other.make_step(number)
    for part in ("model", "optimizer"):
        assert_equal(one.state()[part], other.state()[part])
    for a, b in zip(one.average.state_dict().values(), other.average.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_average_is_torchs_with_a_decay_that_rises():
    setting = Setting("sgd", torch.float32, True, 0)

    def update(averages, currents, num_averaged):
        number = int(num_averaged)
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - min(0.9, (1 + number) / (10 + number)))
            else:
                average.copy_(current)

    theirs = AveragedModel(setting.model, multi_avg_fn=update, use_buffers=True)
    for number in range(5):
        setting.make_step(number)
        theirs.update_parameters(setting.model)
    assert_equal(dict(theirs.state_dict()), dict(setting.average.state_dict()))


def test_taking_back_asks_the_device_for_nothing():
    setting = Setting("adamw", torch.float32, False, 0.5)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        setting.make_step(0)
        setting.make_step(1, "image")
    called = {event.name for event in profile.events()}
    assert "aten::where" in called and not called & {"aten::is_nonzero", "aten::nonzero"}
    reads = [event.cpu_parent.name for event in profile.events() if event.name == "aten::item"]
    assert set(reads) == {"aten::_fused_adamw_"}  # the step counters, as this kernel is the CPU's


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_select_is_exact_for_every_value(dtype):
    integers = torch.randint(-(2**62), 2**62, (100,), generator=torch.Generator().manual_seed(0))
    old, new = (value.view(torch.uint8).clone() for value in (integers, integers.flip(0)))
    if dtype is torch.bool:
        old, new = old > 99, new > 99
    else:
        old, new = old.view(dtype), new.view(dtype)
    for take_back in (True, False):
        found = new.clone()
        select(torch.tensor(take_back), [old], [found])
        expected = old if take_back else new
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
