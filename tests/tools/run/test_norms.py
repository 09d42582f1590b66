"""The running statistics of a run's first steps have nothing left of what they began as."""

import pytest
import torch
from torch import nn

from tests.builders.runs import command
from tools.run import checkpoint
from tools.run.norms import FirstStatistics
from tools.run.state import TrainingState


def test_statistics_are_the_mean_of_the_first_batches_and_then_follow_their_momentum():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=0.25), nn.BatchNorm2d(3, momentum=None)).train()
    network[1].eval()
    first, plain = FirstStatistics(network), nn.BatchNorm2d(3, momentum=0.25)
    batches = 0.01 * torch.randn(7, 4, 3, 6, 6) + 5
    for step, batch in enumerate(batches):
        first.prepare_step(step)
        network(batch)
        if step == 3:  # the last whose share of the mean is not below the momentum
            expected = torch.stack([part.var((0, 2, 3)) for part in batches[:4]]).mean(0)
            torch.testing.assert_close(network[0].running_var, expected)
            torch.testing.assert_close(network[0].running_mean, batches[:4].mean((0, 1, 3, 4)))
            plain.load_state_dict(network[0].state_dict())
        elif step > 3:
            plain(batch)
    torch.testing.assert_close(network[0].running_var, plain.running_var)
    assert network[0].momentum == 0.25 and network[1].momentum is None


@pytest.mark.parametrize("more", [[], ["run.accumulate=2"]])
def test_a_short_run_keeps_no_share_of_the_initial_statistics(world, tmp_path, monkeypatch, more):
    """The same run from other initial statistics ends with the same ones."""
    states, original = [], TrainingState.__init__
    for value in (0.0, 1000.0):

        def begin(self, *arguments, value=value):
            original(self, *arguments)
            for name, buffer in self.model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.fill_(value)

        monkeypatch.setattr(TrainingState, "__init__", begin)
        main, arguments = command("seg", world, tmp_path / str(value))
        assert main([*arguments, "run.steps=2", "run.eval_every=2", *more]) == 0
        states.append(checkpoint.load_state(tmp_path / str(value) / "last.pt"))
    for part in ("model", "average"):
        for name, one in states[0][part].items():
            torch.testing.assert_close(one, states[1][part][name], msg=f"{part} {name}")
