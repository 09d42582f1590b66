"""Which samples each step sees, and the seed of what is random in it: functions of the run's seed and the step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from backbone.errors import InputError
from tools.run.config import Run


class SampleOrder(Sampler):
    """Batches of (epoch, index) pairs for one process, from step `start` to `steps`.

    The epochs' permutations follow each other without a gap, so that no image is dropped and a batch may be larger
    than the set. Each process takes every `num_processes`-th sample of a step's batch, in `run.accumulate` parts of
    which each takes every `accumulate`-th of these.
    """

    def __init__(self, num_samples: int, run: Run, *, start: int = 0, process: int = 0, num_processes: int = 1) -> None:
        self.num_samples, self.run, self.start = num_samples, run, start
        self.process, self.num_processes = process, num_processes

    def __len__(self) -> int:
        return (self.run.steps - self.start) * self.run.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.array([])
        for step in range(self.start, self.run.steps):
            batch = []
            for position in range(step * self.run.batch, (step + 1) * self.run.batch):
                if position // self.num_samples != epoch:
                    epoch = position // self.num_samples
                    order = np.random.default_rng((self.run.seed, epoch)).permutation(self.num_samples)
                batch.append((epoch, int(order[position % self.num_samples])))
            share = batch[self.process :: self.num_processes]
            for part in range(self.run.accumulate):
                yield share[part :: self.run.accumulate]


def check_batch(run: Run, num_processes: int) -> None:
    """Refuses a batch that cannot be shared among the processes and their parts.

    Raises:
        InputError: the shares differ in size, or are single images.
    """
    if run.oom == "reduce" and num_processes > 1:  # the others would wait for the gradients of one that runs out
        raise InputError(f"run.oom=reduce is for one process, here are {num_processes}; give run.accumulate instead")
    if run.accumulate > 1:
        parts = num_processes * run.accumulate
        if run.batch % parts or run.batch == parts:
            raise InputError(
                f"run.batch {run.batch} must be a multiple of run.accumulate {run.accumulate}, times {num_processes} "
                "processes, with at least two images in each part, which batch norm needs"
            )
    if run.batch % num_processes:
        raise InputError(f"run.batch {run.batch} must be a multiple of the {num_processes} processes")
    if run.batch == num_processes:
        raise InputError("run.batch gives each process one image, and batch norm needs at least two; raise run.batch")


def seed_step(run: Run, step: int, process: int, part: int = 0) -> None:
    """Seeds torch's generator, from which dropout and drawn input sizes come, for a part of a process's step."""
    process = process * run.accumulate + part
    torch.manual_seed(int(np.random.SeedSequence((run.seed, step, process)).generate_state(1)[0]))
