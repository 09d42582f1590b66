"""Batches of a run's samples: from loader workers that may die, out of images that may be damaged."""

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backbone.errors import InputError
from tools.doctoring.checks import SHARED_MEMORY
from tools.io.console import console
from tools.run.config import AnyConfig
from tools.run.processes import gather_parts, single_thread
from tools.run.task import Task, TaskDataset, kinds, sample_order

BUDGET = 0.001
"""data.damaged=skip goes on while no larger share of the images, or one image, is damaged."""
ATTEMPTS = 20
"""So many images are tried for a sample before the data set counts as gone."""
PREFETCH = 4
"""Batches that each worker has ready."""
TIMEOUT = 300
"""Seconds after which a worker that gives nothing counts as hung."""


class Loaded(NamedTuple):
    """A batch, and what was wrong with images that others take the place of in it."""

    batch: Any  # of the task
    faults: list[str]  # a line for each, which names the file


class Substituting(Dataset):
    """A data set in which another image takes the place of a damaged one.

    Which one follows from (seed, epoch, index) alone, so that a resumed run sees the same samples. An item is a pair:
    the sample, and a line for each damaged image that was met.

    Arguments:
        skip: whether to do so; else a damaged image is an error.
    """

    def __init__(self, dataset: TaskDataset, seed: int, *, skip: bool) -> None:
        self.dataset, self.seed, self.skip = dataset, seed, skip

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, list[str]]:
        if not self.skip:
            return self.dataset[key], []
        faults: list[str] = []
        epoch, index = key
        for attempt in range(ATTEMPTS):
            try:
                return self.dataset[epoch, index], faults
            except InputError as error:
                faults.append(str(error))
            others = next(own for own in kinds(self.dataset) if key[1] in own)
            index = others[int(np.random.default_rng((self.seed, *key, attempt)).integers(len(others)))]
        raise InputError(faults[-1])


class Damaged:
    """The damaged images that a run has met; each is named once.

    Attributes:
        faults: a line for each.
        limit: how many there may be.
    """

    def __init__(self, num_images: int, faults: Sequence[str] = ()) -> None:
        self.faults, self.limit = list(faults), damage_limit(num_images)

    def meet(self, faults: Sequence[str], *, said: bool = False) -> None:
        """Adds to the faults those that are new, and says them.

        Arguments:
            said: another process has said them.
        Raises:
            InputError: there are too many.
        """
        for fault in faults:
            if fault not in self.faults:
                self.faults.append(fault)
                if not said:
                    console.out(f"warning: another image takes the place of a damaged one: {fault}")
        check_damage(self.faults, self.limit)

    def share(self, accelerator: Accelerator) -> None:
        """Tells the other processes, and learns from them; all call it at the same time.

        Raises:
            InputError: there are too many in all.
        """
        for faults in gather_parts(accelerator, list(self.faults)):
            self.meet(faults, said=True)

    def say_all(self) -> None:
        """Lists them at the end of a run."""
        if self.faults:
            console.out(f"{len(self.faults)} damaged images were replaced by others:")
            for fault in self.faults:
                console.out(f"  {fault}")


def damage_limit(num_images: int) -> int:
    """How many of so many images may be damaged."""
    return max(1, int(BUDGET * num_images))


def check_damage(faults: Sequence[str], limit: int) -> None:
    """Refuses data with more damaged images than `limit`.

    Raises:
        InputError: there are more; names the last.
    """
    if len(faults) > limit:
        cure = "check the data set, or list what to leave out (--leave-out of the check commands, data.leave_out)"
        raise InputError(f"{len(faults)} damaged images, {limit} may be; {cure}; the last: {faults[-1]}")


def make_loader(config: AnyConfig, accelerator: Accelerator, task: Task, start: int) -> DataLoader:
    """Batches, as `Loaded`, of this process's share of the samples, from step `start` to the last."""
    order = sample_order(
        task.train_set,
        config.run,
        start=start,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    return DataLoader(
        Substituting(task.train_set, config.run.seed, skip=config.data.damaged == "skip"),
        batch_sampler=order,
        num_workers=config.data.workers,
        collate_fn=CollateLoaded(task.collate),
        worker_init_fn=single_thread,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=PREFETCH if config.data.workers else None,
        timeout=TIMEOUT if config.data.workers else 0,
    )


class CollateLoaded:
    """Makes `Loaded` of items of `Substituting`; a class, so that workers can be spawned with it."""

    def __init__(self, collate: Callable[[list], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[Any, list[str]]]) -> Loaded:
        return Loaded(self.collate([sample for sample, _ in items]), [fault for _, faults in items for fault in faults])


def batches(loader: DataLoader, parts: int = 1) -> Generator[list[Loaded], None, None]:
    """The loader's batches, so many at a time; a worker that has died or hangs is an error in one line.

    Raises:
        InputError: a worker is dead, or gives nothing within `TIMEOUT`; an image is damaged.
    """
    iterator, fault = iter(loader), None
    while fault is None:
        try:
            loaded = [next(iterator) for _ in range(parts)]
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            if (fault := worker_fault(error, loader.num_workers)) is None:
                raise
        else:
            yield loaded
    del iterator  # ends the other workers; while torch watches them it may raise the same error again, anywhere
    raise InputError(fault)


@contextmanager
def told_in_one_line(workers: int, *, training: bool = True) -> Iterator[None]:
    """Turns torch's errors about loader workers into an InputError.

    torch raises them wherever the process is when a worker dies, which need not be where it waits for a batch. The
    evaluations of a run have a worker even where it loads in its own process.

    Arguments:
        workers, training: as `worker_fault` takes them.
    """
    try:
        yield
    except RuntimeError as error:
        if (fault := worker_fault(error, workers, training=training)) is None:
            raise
        raise InputError(fault) from error


def worker_fault(error: Exception, workers: int, *, training: bool = True) -> str | None:
    """What a worker's death or silence means, in a line; None for any other error.

    A worker that dies between announcing a batch and handing it over leaves a broken connection.

    Arguments:
        workers: their number.
        training: they are a run's, which can be resumed; else those of a command with --workers.
    """
    text = str(error)
    if text.startswith("Caught "):  # an error in the data set itself
        return None
    broken = workers > 0 and isinstance(error, ConnectionError | FileNotFoundError | EOFError)
    if not broken and not text.startswith(("DataLoader worker", "DataLoader timed out")):
        return None
    named = re.search(r"\(pid(?:\(s\))? ([\d, ]+)\)", text)
    worker = f"loader worker (process {named[1] if named else 'unknown'})"
    lower, none = ("data.workers", "data.workers=0") if training else ("--workers", "--workers 0")
    if "timed out" in text:
        cure = f"is the disk or network share of the images alive? {none} shows where it hangs"
        return f"loader workers gave no batch within {TIMEOUT} s; {cure}"
    if "shared memory" in text or "Bus error" in text:
        cure = f"give a container --shm-size=8g, or lower {lower} ({workers})"
        return f"{worker} died: {SHARED_MEMORY} is too small; {cure}"
    how = re.search(r"signal: ([^.]*)\.", text)
    again = "--resume goes on, " if training else ""
    less = f"lower {lower} ({workers})" if workers else "free some"
    cure = f"if memory ran out, {less}; {again}{none} shows its own error"
    return f"{worker} {f'was killed ({how[1]})' if how else 'died'}; {cure}"


def shared_memory_warning(config: AnyConfig, task: Task, num_processes: int) -> str | None:
    """Says that the batches which workers have ready may not fit into shared memory; None if they do."""
    workers = config.data.workers
    if not workers or not SHARED_MEMORY.is_dir():
        return None
    sample, _ = Substituting(task.train_set, config.run.seed, skip=True)[0, 0]  # any that can be read
    local = num_processes if "LOCAL_WORLD_SIZE" not in os.environ else int(os.environ["LOCAL_WORLD_SIZE"])
    needed = _num_bytes(sample) * config.run.batch // num_processes * local * (PREFETCH * workers + 1)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed <= free:
        return None
    return (
        f"warning: {SHARED_MEMORY} has {free / 1e6:.0f} MB free, batches of {workers} workers may take "
        f"{needed / 1e6:.0f} MB; give a container --shm-size, or lower data.workers"
    )


def _num_bytes(sample: Any) -> int:
    """Of the tensors in a (nested) tuple."""
    if isinstance(sample, Tensor):
        return sample.nbytes
    return sum(_num_bytes(part) for part in sample) if isinstance(sample, tuple) else 0
