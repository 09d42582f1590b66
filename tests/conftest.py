"""What several tests share: one small demo world, and random weights that exercise every part of a network."""

import os

# Small tensors on a shared machine: more threads only wait for each other, in processes that tests start, too. This and
# what `tools` sets must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tools  # noqa: F401, I001

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from tests.builders.chromium import chromium  # noqa: F401 - a fixture
from tests.builders.processes import together  # noqa: F401 - a fixture
from tests.builders.skips import pytest_runtest_makereport  # noqa: F401 - a hook
from tools.engines import choice
from tools.make_demo_data import make_demo_data


FORKING = ("test_survival.py", "test_loading.py", "test_options.py", "test_memory.py", "run/test_faults.py")
"""Their tests train in copies of the test process, and so do those that use `together`."""


def forks(item: pytest.Item) -> bool:
    return str(item.path).endswith(FORKING) or "together" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork come first: after a torch.export in the same process, autograd refuses to run in its copies."""
    items.sort(key=lambda item: not forks(item))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Also where a plugin of pytest has imported torch first."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def plain_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine "auto" is torch, as without the extras: building a runtime's file takes seconds for each network."""
    monkeypatch.setattr(choice, "RUNTIMES_OF_AUTO", ())


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps the precision of a process's first run for good; a process of ours has only one."""
    yield
    AcceleratorState._reset_state()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo world of 8 training and 5 validation scenes, 96x192; for reading only."""
    out = tmp_path_factory.mktemp("world")
    make_demo_data(out, num_train=8, num_val=5, num_clip_frames=6, size_hw=(96, 192), seed=0)
    return out


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Gives norms random statistics and scales, so that a forgotten or misplaced one shows; evaluation mode."""

    def apply(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                with torch.no_grad():
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.1, generator=generator)
        return model.eval()

    return apply
