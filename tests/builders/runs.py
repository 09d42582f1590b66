"""Small experiments on the demo world, and how two runs are compared."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backbone import InputError
from tests.builders.processes import fork
from tools import train_det, train_joint, train_seg
from tools.run import checkpoint, loop
from tools.run.config import Optim
from tools.run.schedule import learning_rate

ROOT = Path(__file__).parents[2]
COMMON = ["run.steps=6", "run.batch=4", "run.eval_every=3", "run.log_every=2", "optim.warmup=2", "data.workers=0"]


def command(task: str, world: Path, out: Path) -> tuple[Callable[[list[str]], int], list[str]]:
    """The training tool of a task and a small experiment for it."""
    if task == "joint":
        own = [f"segmentation.data.root={world / 'cityscapes'}", f"detection.data.root={world / 'coco'}"]
        own += ["segmentation.augment.crop_hw=[64,96]", "detection.model.image_size=[96,128]", "compare_gradients=2"]
        return train_joint.main, [str(ROOT / "configs/joint/demo.yaml"), *COMMON, *own, f"run.out={out}"]
    config = str(ROOT / "configs" / "demo" / f"{task}.yaml")
    if task == "seg":
        own = [f"data.root={world / 'cityscapes'}", "augment.crop_hw=[48,64]"]
        return train_seg.main, [config, *COMMON, *own, f"run.out={out}"]
    own = [f"data.root={world / 'coco'}", "model.image_size=[96,128]", "weights=null"]
    return train_det.main, [config, *COMMON, *own, f"run.out={out}"]


def assert_equal(one: object, other: object) -> None:
    """Two states, or parts of them, are of the same types and equal to the bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def log_of(folder: Path) -> list[str]:
    """The lines of a run's log that do not depend on the clock."""
    timed = ("images_per_second", "teacher_share")
    return [line for line in (folder / "log.csv").read_text().splitlines() if line.split(",")[1] not in timed]


def interrupted(
    main: Callable[[list[str]], int], arguments: list[str], stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> int:
    """The exit code of a run that is told to end while it is at step `stop_at`."""

    def interrupt(optim: Optim, step: int, steps: int) -> float:
        if step == stop_at - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(optim, step, steps)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate", interrupt)
        return main(arguments)


def whole_and_in_parts(task: str, own: list[str], world: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run into `folder / "whole"`, and the same one told to end at step 2 and resumed; their weights are equal."""
    folders = folder / "whole", folder / "parts"
    main, arguments = command(task, world, folders[0])
    assert main([*arguments, *own]) == 0
    main, arguments = command(task, world, folders[1])
    assert interrupted(main, [*arguments, *own], 2, monkeypatch) == 128 + signal.SIGTERM
    assert main([*arguments, *own, "--resume"]) == 0
    assert_equal(*(checkpoint.load_state(path / "last.pt")["model"] for path in folders))


def in_own_process(run: Callable[[], int]) -> int:
    """The exit code of what runs in a copy of this process, or the negative number of the signal that ended it."""
    child = fork()
    if child == 0:
        code = 99
        try:
            code = run()
        except InputError:
            code = 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_myself(*_: object, **__: object) -> None:
    """Ends this process as nothing can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)
