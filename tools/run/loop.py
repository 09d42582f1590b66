"""The training loop that all tasks share: read `train` from top to bottom.

Whatever is random follows from numbers: the order of samples from (seed, epoch), a sample's augmentation from
(seed, epoch, index), dropout from (seed, step, process), the learning rate from (step, steps). So a run that was
interrupted goes on as if nothing had happened, at any step and with any number of loader workers.
"""

import atexit
import csv
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import TaskID
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler

from backbone.errors import InputError
from tools.io import model_file
from tools.io.console import console, progress
from tools.run import checkpoint
from tools.run.config import FREE_ON_RESUME, AnyConfig, Optim, Run, flatten, to_yaml
from tools.run.curves import draw_curves, draw_lr_range

NON_FINITE = 20
"""Exit code of a run that stopped because its loss was not a finite number."""


class SampleOrder(Sampler):
    """Batches of (epoch, index) pairs for one process, from step `start` to `steps`.

    The epochs' permutations follow each other without a gap, so that no image is dropped and a batch may be larger
    than the set. Each process takes every `num_processes`-th sample of a batch.
    """

    def __init__(self, num_samples: int, run: Run, *, start: int = 0, process: int = 0, num_processes: int = 1) -> None:
        self.num_samples, self.run, self.start = num_samples, run, start
        self.process, self.num_processes = process, num_processes

    def __len__(self) -> int:
        return self.run.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.array([])
        for step in range(self.start, self.run.steps):
            batch = []
            for position in range(step * self.run.batch, (step + 1) * self.run.batch):
                if position // self.num_samples != epoch:
                    epoch = position // self.num_samples
                    order = np.random.default_rng((self.run.seed, epoch)).permutation(self.num_samples)
                batch.append((epoch, int(order[position % self.num_samples])))
            yield batch[self.process :: self.num_processes]


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """The rate of step 0..steps-1: linear warm-up, then what `optim.schedule` names.

    poly and cosine fall from lr and would reach min_lr at `steps`; step multiplies lr by gamma every step_every steps;
    triangular2 goes up to lr and back in 2 * half_cycle steps, half as high in each cycle (arXiv 1506.01186); range
    rises from min_lr to lr by the same factor in each step, without a warm-up.
    """
    if optim.schedule == "range":
        return optim.min_lr * (optim.lr / optim.min_lr) ** (step / max(1, steps - 1))
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    since = step - optim.warmup
    share = since / max(1, steps - optim.warmup)
    span = optim.lr - optim.min_lr
    if optim.schedule == "poly":
        return optim.min_lr + span * (1 - share) ** optim.power
    if optim.schedule == "cosine":
        return optim.min_lr + span * 0.5 * (1 + math.cos(math.pi * share))
    if optim.schedule == "step":
        return optim.lr * optim.gamma ** (since // optim.step_every)
    cycle, position = divmod(since, 2 * optim.half_cycle)
    height = 1 - abs(position / optim.half_cycle - 1)
    return optim.min_lr + span * height / 2**cycle


def for_batch(optim: Optim, batch: int) -> Optim:
    """The settings with their rate for this batch: it grows in proportion to the batch that it was given for."""
    if optim.lr_for_batch is None:
        return optim
    return dataclasses.replace(optim, lr=optim.lr * batch / optim.lr_for_batch)


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The optimiser, with weight decay on weights of convolutions and linear layers only."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # On a CPU one fused pass saves 20 ms of each AdamW step. On a GPU it would hide skipped steps from accelerate.
    fused = all(p.device.type == "cpu" for p in decayed)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)
    if optim.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=optim.lr, momentum=optim.momentum, alpha=optim.alpha, eps=optim.eps)
    return torch.optim.AdamW(groups, lr=optim.lr, fused=fused)


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and norm statistics; its decay rises to `decay` over the first steps."""

    def update(averages: list[Tensor], currents: list[Tensor], num_averaged: Tensor | int) -> None:
        count = int(num_averaged)
        weight = 1 - min(decay, (1 + count) / (10 + count))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, weight)
        else:
            torch._foreach_copy_(averages, currents)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def make_accelerator(precision: str | None = None) -> Accelerator:
    """Devices, processes and precision (None: as launched), as `torchrun` or `accelerate launch` started us."""
    # Unless told so, accelerate takes the processes of a machine without a GPU for one process each.
    no_gpu = not torch.accelerator.is_available()
    accelerator = Accelerator(mixed_precision=precision, step_scheduler_with_optimizer=False, cpu=no_gpu)
    if accelerator.num_processes > 1:  # else its threads may outlive what they use, and the process aborts at its end
        atexit.register(torch.distributed.destroy_process_group)
    return accelerator


def open_run(config: AnyConfig, resume: bool) -> dict[str, Any] | None:
    """Checks the run folder and returns the state to go on from, or None for a new run.

    Raises:
        InputError: the folder holds a run already, there is nothing to resume, or the config has changed.
    """
    folder = Path(config.run.out)
    last = folder / "last.pt"
    if not resume:
        if last.exists():
            raise InputError(f"{folder}: holds a run already; add --resume to go on, or choose another run.out")
        return None
    state = checkpoint.load_state(last)
    for key, value in flatten(config).items():
        if key not in FREE_ON_RESUME and state["config"].get(key) != value:
            old = state["config"].get(key)
            raise InputError(f"{last}: was made with {key}={old}, now {value}; a resumed run keeps its config")
    return state


def train(
    *,
    config: AnyConfig,
    accelerator: Accelerator,
    model: nn.Module,
    description: dict[str, Any],
    dataset: Dataset,
    collate: Callable[[list], Any],
    loss: Callable[[nn.Module, Any], dict[str, Tensor]],
    evaluate: Callable[[nn.Module], dict[str, float]],
    score: str,
    state: dict[str, Any] | None,
    before_step: Callable[[int], None] | None = None,
) -> int:
    """Trains a model into the folder `config.run.out` and returns the process's exit code.

    Arguments:
        model: the plain model; `loss(model, batch)` gives its terms, which are added up.
        description: what `best.safetensors` says of itself.
        collate: makes a batch of samples; the batch is then moved to the device.
        evaluate: figures of a model; every process calls it. `score` names the one by which the best is kept.
        state: of an earlier run to go on from, as `open_run` returned it.
        before_step: called with each step's number before the forward pass, for what is scheduled in the model.
    """
    run, optim = config.run, for_batch(config.optim, config.run.batch)
    out, is_main, device = Path(run.out), accelerator.is_main_process, accelerator.device
    start = state["step"] if state else 0
    share = run.batch // accelerator.num_processes
    if run.batch % accelerator.num_processes:
        raise InputError(f"run.batch {run.batch} must be a multiple of the {accelerator.num_processes} processes")
    if share == 1:
        raise InputError("run.batch gives each process one image, and batch norm needs at least two; raise run.batch")

    if run.sync_norm and accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    plain = model.to(device, memory_format=torch.channels_last if run.channels_last else torch.preserve_format)
    # Copied before accelerate wraps `forward`, which would make the copy call the original.
    average = make_average(plain, optim.ema) if optim.ema else None
    model, optimizer = accelerator.prepare(plain, make_optimizer(plain, optim))
    best = -math.inf
    if state:
        plain.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        best = state["best"]
    kept = average.module if average is not None else plain  # the weights that are evaluated and kept
    stepped = model
    if run.compile and accelerator.num_processes > 1:
        stepped = torch.compile(model)  # the gradients' exchange is no part of a graph
    elif run.compile:
        loss = torch.compile(loss, dynamic=False)

    order = SampleOrder(
        len(dataset), run, start=start, process=accelerator.process_index, num_processes=accelerator.num_processes
    )
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=config.data.workers,
        collate_fn=collate,
        worker_init_fn=single_thread,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if config.data.workers else None,
        timeout=300 if config.data.workers else 0,
    )

    ranging, lowest = optim.schedule == "range", math.inf
    if ranging and not 0 < optim.min_lr < optim.lr:
        raise InputError(f"optim.min_lr {optim.min_lr:g} must lie between 0 and optim.lr {optim.lr:g} for a range test")

    def save(step: int) -> None:
        if ranging or not is_main:
            return
        checkpoint.save_state(
            out / "last.pt",
            {
                "step": step,
                "best": best,
                "model": plain.state_dict(),
                "average": average.state_dict() if average is not None else None,
                "optimizer": optimizer.state_dict(),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                "config": flatten(config),
            },
        )

    if is_main and optim != config.optim:
        given = f"{config.optim.lr:g} for a batch of {optim.lr_for_batch}"
        console.print(f"learning rate {optim.lr:g} for run.batch {run.batch}; given as {given}")
    clock, timed_from = time.perf_counter(), start
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        bar = stack.enter_context(progress("{task.fields[note]}"))
        log = stack.enter_context(closing(Log(out, config, start))) if is_main else None
        task = bar.add_task("training", total=run.steps, completed=start, note="", visible=is_main)
        for step, batch in numbered(loader, start, save):
            rate = learning_rate(optim, step, run.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(
                int(np.random.SeedSequence((run.seed, step, accelerator.process_index)).generate_state(1)[0])
            )
            if before_step is not None:
                before_step(step)
            model.train()
            terms = loss(stepped, to_device(batch, device))
            total = sum(terms.values())
            # A range test ends when the loss explodes, in all processes at once.
            value = (accelerator.reduce(total.detach(), "mean") if ranging else total).item()
            if ranging and step and not value < 4 * lowest:
                break
            lowest = min(lowest, value)
            if not math.isfinite(value):
                return stop_non_finite(step, value, terms, rate)
            accelerator.backward(total)
            if optim.clip:
                accelerator.clip_grad_norm_(model.parameters(), optim.clip)
            optimizer.step()
            optimizer.zero_grad()
            if average is not None and not accelerator.optimizer_step_was_skipped:
                average.update_parameters(plain)

            done = step + 1
            if is_main and (ranging or done % run.log_every == 0 or done == run.steps):
                speed = (done - timed_from) * run.batch / (time.perf_counter() - clock)
                row = {name: term.item() for name, term in terms.items()}
                log.write(done, row | {"loss": value, "lr": rate, "images_per_second": speed})
                show(bar, task, done, run.steps, f"loss {value:.3f}  lr {rate:.2g}  {speed:.1f} images/s")
                clock, timed_from = time.perf_counter(), done
            bar.update(task, completed=done)

            if not ranging and (done % run.eval_every == 0 or done == run.steps):
                pause = time.perf_counter()
                try:
                    scores = evaluate(kept.eval())
                except InputError:
                    save(done)
                    raise
                clock += time.perf_counter() - pause
                if is_main:
                    log.write(done, {f"val/{name}": value for name, value in scores.items()})
                    improved = scores[score] > best
                    bar.console.print(f"step {done}: {score} {scores[score]:.4f}{' (best so far)' if improved else ''}")
                    if improved or not (out / "best.safetensors").exists():
                        best = max(best, scores[score])
                        model_file.save_model(
                            out / "best.safetensors", kept, description | {"step": done, "metrics": finite(scores)}
                        )
            signalled = stop.agreed(accelerator)
            if done % run.save_every == 0 or done == run.steps or signalled:
                save(done)
            if signalled and done < run.steps:
                if is_main:
                    console.print(f"stopped after step {done}; go on with --resume")
                return 128 + signalled
    if is_main and ranging:
        rate = draw_lr_range(out / "log.csv", out / "lr_range.csv", out / "lr_range.png")
        console.print(f"the loss falls fastest at optim.lr={rate:.2g}; see {out / 'lr_range.png'}", soft_wrap=True)
    elif is_main:
        draw_curves(out / "log.csv", out / "curves.png")
    return 0


def numbered(loader: DataLoader, start: int, save: Callable[[int], None]) -> Iterator[tuple[int, Any]]:
    """The batches with their steps; if an image turns out to be damaged, what was learnt before it is saved."""
    step = start
    try:
        for batch in loader:
            yield step, batch
            step += 1
    except InputError:
        if step > start:
            save(step)
        raise


class Log:
    """`log.csv` (step, name, value) and TensorBoard events of a run, beside its `config.yaml`."""

    def __init__(self, folder: Path, config: AnyConfig, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(to_yaml(config))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another run.out") from error
        path = folder / "log.csv"
        rows = []
        if start and path.exists():  # rows written after the checkpoint will be written again
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) <= start]
        self.file = path.open("w", newline="")
        self.rows = csv.writer(self.file)
        self.rows.writerows([("step", "name", "value"), *rows])
        self.events = SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.rows.writerow((step, name, f"{value:.8g}"))
            self.events.add_scalar(name, value, step)
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        self.events.close()


class StopSignal:
    """Remembers SIGTERM and SIGINT while it is entered, so that a run ends after the step it is in."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopSignal":
        self.before = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal that any process got, the same answer in all of them."""
        if accelerator.num_processes == 1:
            return self.signal
        signals = accelerator.gather(torch.tensor([self.signal], device=accelerator.device))
        return int(signals.max())


def stop_non_finite(step: int, value: float, terms: dict[str, Tensor], rate: float) -> int:
    """Says why the run ends; the weights are those before the step, and last.pt is untouched."""
    parts = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
    console.print(
        f"error: step {step + 1}: the loss is {value} ({parts}) at learning rate {rate:g}; nothing was changed."
    )
    console.print("Lower optim.lr, set optim.clip=1, or use run.precision=no; then --resume or start again.")
    return NON_FINITE


def show(bar: Any, task: TaskID, done: int, steps: int, note: str) -> None:
    """Updates the bar; without a terminal prints a line, as bars are not drawn into files."""
    bar.update(task, note=note)
    if not console.is_terminal:
        console.print(f"step {done}/{steps}  {note}", soft_wrap=True)


def device_text(accelerator: Accelerator) -> str:
    """`2 processes on cuda` and the like."""
    count = accelerator.num_processes
    return f"{count} process{'es' if count > 1 else ''} on {accelerator.device.type}"


def print_end(config: AnyConfig, evaluation: str) -> None:
    """The last lines of a run: where its result is and what to run next."""
    if config.optim.schedule == "range":
        return
    best = Path(config.run.out) / "best.safetensors"
    console.print(f"done: {best}; curves in {best.with_name('curves.png')}", soft_wrap=True)
    console.print(f"next: python -m {evaluation} --weights {best}", soft_wrap=True)


def to_device(batch: Any, device: torch.device) -> Any:
    """Moves the tensors of a (nested) NamedTuple."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        return type(batch)(*(to_device(part, device) for part in batch))
    return batch


def shard(accelerator: Accelerator, count: int) -> range:
    """The indices that this process evaluates: each index exactly once over all processes."""
    return range(accelerator.process_index, count, accelerator.num_processes)


def gather_parts(accelerator: Accelerator, part: Any) -> list[Any]:
    """The `part` of every process, in their order, on every process."""
    if accelerator.num_processes == 1:
        return [part]
    parts: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(parts, part)
    return parts


def single_thread(worker: int) -> None:
    """Loader workers share the cores with training: one thread each."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def finite(scores: dict[str, float]) -> dict[str, float | None]:
    """Scores as JSON can hold them: NaN (a class that does not occur) becomes null."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
