"""A training step of LR-ASPP Large beside torchvision's, each in a process of its own."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
import torchvision
from torch.nn.functional import cross_entropy

import seg
from seg.loss import cross_entropy as coarse_cross_entropy
from tools.benchmarks.timing import alternate, medians
from tools.io.console import console, table
from tools.run.config import Optim
from tools.run.optimizer import make_optimizer

PEER, OURS, COMPILED = "torchvision", "taproot", "taproot compiled"


def benchmark(*, size: tuple[int, int], batch: int, rounds: int, threads: int | None, compile: bool) -> None:
    """Prints the comparison.

    Arguments:
        size: height and width of the images, pixels.
        threads: of each process; None: as torch chooses.
        compile: also ours after `torch.compile`.
    """
    threads = torch.get_num_threads() if threads is None else threads
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    first_seconds: dict[str, float] = {}
    for contender in (PEER, OURS, COMPILED)[: 2 + compile]:  # one after the other: nothing runs beside a first step
        pipes[contender], theirs = context.Pipe()
        settings = (theirs, contender, tuple(size), batch, threads)
        context.Process(target=serve_steps, args=settings, daemon=True).start()
        first_seconds[contender] = pipes[contender].recv()

    def request_step(pipe: Connection) -> Callable[[], None]:
        def request() -> None:
            pipe.send(True)
            pipe.recv()

        return request

    # The processes have warmed up already.
    seconds = alternate({name: request_step(pipe) for name, pipe in pipes.items()}, rounds, warm_up=False)
    median, rows = medians(seconds), []
    for contender, values in seconds.items():
        pipes[contender].send(False)
        memory = f"{pipes[contender].recv():.0f} MiB"
        ratio = median[PEER] / median[contender]
        times = [f"{median[contender]:.2f} s", f"{min(values):.2f} to {max(values):.2f}", f"{ratio:.2f}x"]
        rows.append([contender, *times, memory, f"{first_seconds[contender]:.0f} s"])
    title = f"training step, {batch} images of {size[0]}x{size[1]}, {threads} threads"
    console.print(table(title, ["", "median", "range", "speed", "peak memory", "first step"], rows))


def serve_steps(pipe: Connection, contender: str, size_hw: tuple[int, int], batch: int, threads: int) -> None:
    """Does a training step for every True that comes through the pipe and answers True; False ends it.

    The first answer is the seconds to the end of the first step, compilation included; the last one the peak memory
    in MiB.
    """
    torch.set_num_threads(threads)
    start = time.perf_counter()
    step = make_step(contender, size_hw, batch)
    step()
    first = time.perf_counter() - start
    step()  # warms up
    pipe.send(first)
    while pipe.recv():
        step()
        pipe.send(True)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def make_step(contender: str, size_hw: tuple[int, int], batch: int) -> Callable[[], None]:
    """A training step of a contender on random images of 19 classes."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size_hw)
    labels = torch.randint(0, 19, (batch, *size_hw), dtype=torch.uint8)
    if contender == PEER:
        model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=19
        ).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-6)

        def loss() -> torch.Tensor:
            return cross_entropy(model(images)["out"], labels.long(), ignore_index=255)
    else:
        plain = seg.create(variant="torchvision").train().to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer = make_optimizer([plain.parameters()], Optim(name="sgd", lr=0.01, weight_decay=1e-6))
        stepped = torch.compile(plain) if contender == COMPILED else plain

        def loss() -> torch.Tensor:
            return coarse_cross_entropy(stepped(images), labels)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
