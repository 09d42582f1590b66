"""Several processes that train or score together, as torchrun would start them, but as copies of the test process.

What torchrun starts imports torch and our packages first, ten seconds for each process on a busy machine; copies have
them.
"""

import itertools
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

TIMEOUT = 240
"""Seconds."""
PRINTED = "printed.txt"


@pytest.fixture
def together(tmp_path: Path) -> Callable[[int, Callable[[], object]], str]:
    """Runs a function in so many processes of one group, of which none may fail; gives what they print."""
    groups = itertools.count()

    def run_together(count: int, run: Callable[[], object]) -> str:
        folder = tmp_path / f"group{next(groups)}"  # where they meet
        folder.mkdir()
        _wait({_start(rank, count, folder, run) for rank in range(count)}, folder)
        return (folder / PRINTED).read_text()

    return run_together


def _wait(children: set[int], folder: Path) -> None:
    """Waits for processes; where one fails, the others, which would wait for it, are killed."""
    codes: dict[int, int] = {}
    ends = time.monotonic() + TIMEOUT
    while codes.keys() != children:
        for child in children - codes.keys():
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) or time.monotonic() > ends:
            for child in children - codes.keys():
                os.kill(child, signal.SIGKILL)
                codes[child] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.02)
    said = (folder / PRINTED).read_text()[-3000:]
    assert not any(codes.values()), f"processes ended with {list(codes.values())}:\n{said}"


def fork() -> int:
    """The id of a copy of this process, in which it is 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks: the threads of a test process hold no locks
        return os.fork()


def _start(rank: int, count: int, folder: Path, run: Callable[[], object]) -> int:
    """The id of a copy of this process that is one of a group and calls `run`."""
    child = fork()
    if child:
        return child
    code = 1
    try:
        printed = os.open(folder / PRINTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.stdout = sys.stderr = os.fdopen(printed, "w", buffering=1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        AcceleratorState._reset_state(reset_partial_state=True)  # that of the only process that there was
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count
        )
        run()
        torch.distributed.barrier()  # none leaves while another has something to say to it
        code = 0
    except BaseException:  # this is all that the process does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
