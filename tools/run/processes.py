"""Devices and processes: what each process does of the work, and how they agree."""

import atexit
from typing import Any

import cv2
import torch
from accelerate import Accelerator
from torch import Tensor


def make_accelerator(precision: str | None = None) -> Accelerator:
    """Devices, processes and precision (None: as launched), as `torchrun` or `accelerate launch` started us."""
    # Unless told so, accelerate takes the processes of a machine without a GPU for one process each.
    no_gpu = not torch.accelerator.is_available()
    accelerator = Accelerator(mixed_precision=precision, step_scheduler_with_optimizer=False, cpu=no_gpu)
    if accelerator.num_processes > 1:  # else its threads may outlive what they use, and the process aborts at its end
        atexit.unregister(torch.distributed.destroy_process_group)  # of a run before in this process
        atexit.register(torch.distributed.destroy_process_group)
    return accelerator


def device_text(accelerator: Accelerator) -> str:
    """`2 processes on cuda` and the like."""
    count = accelerator.num_processes
    return f"{count} process{'es' if count > 1 else ''} on {accelerator.device.type}"


def to_device(batch: Any, device: torch.device) -> Any:
    """A tensor, or a (nested) NamedTuple of tensors, on the device."""
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


def gather_values(accelerator: Accelerator, value: Tensor) -> list[float]:
    """The scalar of every process, in their order, on every process; faster than `gather_parts`."""
    if accelerator.num_processes == 1:
        return [value.item()]
    values: Any = accelerator.gather(value.detach().reshape(1))
    return values.tolist()


def single_thread(worker: int) -> None:
    """Loader workers share the cores with training: one thread each."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
