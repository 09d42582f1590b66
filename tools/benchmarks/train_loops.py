"""What `tools.benchmark train` sets beside a training run: a bare loop over its network, and torchvision's own loop.

A loop makes a number of steps when it is called and then waits for the next call; its batches come from a loader like
the run's, with the run's augmentation and workers.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import det
from backbone.inference import normalise
from seg.data.dataset import SegSample
from tools.joint.data import JointDataset
from tools.run.config import DetConfig, SegConfig
from tools.run.loading import Loaded, batches, make_loader
from tools.run.loop import compiled, total_loss
from tools.run.optimizer import make_optimizer
from tools.run.order import seed_step
from tools.run.processes import to_device
from tools.run.schedule import for_batch
from tools.run.task import Task

Loop = Callable[[int], None]
"""Makes so many steps."""


def bare_loop(config: SegConfig | DetConfig, accelerator: Accelerator, task: Task) -> Loop:
    """Forward pass, backward pass and step of a task's network, and nothing else that a run does.

    Arguments:
        config: settled; the loop ends before `run.steps` steps.
    """
    run = config.run
    layout = torch.channels_last if run.channels_last else torch.preserve_format
    model = task.model.to(accelerator.device).to(memory_format=layout).train()
    optimizer = make_optimizer([model.parameters()], for_batch(config.optim, run.batch))
    model, loss = compiled(run, accelerator, model, task.loss)
    data = numbered(config, accelerator, task)

    def make_steps(count: int) -> None:
        for _ in range(count):
            step, parts = next(data)
            for number, (batch, _) in enumerate(parts):
                seed_step(run, step, 0, number)  # the input sizes that are drawn are the run's
                (total_loss(loss(model, to_device(batch, accelerator.device))) / len(parts)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return make_steps


def reference_loop(config: SegConfig | DetConfig, accelerator: Accelerator, task: Task) -> tuple[Loop, nn.Module]:
    """torchvision's model of the task on MobileNetV3 Large with random weights, trained as its reference script does.

    SGD and a rate that falls with every step; each step ends with the loss as a number, which the script logs.

    Returns:
        The loop and its model.
    """
    mean, std = config.mean, config.std
    assert mean is not None and std is not None and not isinstance(task.train_set, JointDataset)
    if isinstance(config, SegConfig):
        model: Any = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=len(task.train_set.classes)
        )
    else:
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=len(task.train_set.classes) + 1
        )
        # Its transform is all that knows the size of its input; it takes (width, height).
        model.transform.fixed_size = tuple(config.model.image_size)[::-1]
    model.to(accelerator.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=config.run.steps, power=0.9)
    data = numbered(config, accelerator, task)

    def segmentation_loss(batch: SegSample) -> Tensor:
        output = model(normalise(batch.image, mean, std))["out"]
        return cross_entropy(output, batch.labels.long(), ignore_index=255)

    def detection_loss(batch: det.Batch) -> Tensor:
        images = list(batch.images.float() / 255)  # which its transform normalises
        targets = []
        for boxes, labels, valid, crowd in zip(*batch.targets, strict=True):
            kept = valid & ~crowd
            targets.append({"boxes": boxes[kept], "labels": labels[kept] + 1})
        return sum(model(images, targets).values(), torch.zeros((), device=accelerator.device))

    loss: Callable[[Any], Tensor] = segmentation_loss if isinstance(config, SegConfig) else detection_loss

    def make_steps(count: int) -> None:
        for _ in range(count):
            _, parts = next(data)
            optimizer.zero_grad()
            for batch, _ in parts:
                with accelerator.autocast():
                    total = loss(to_device(batch, accelerator.device)) / len(parts)
                total.backward()
                total.item()
            optimizer.step()
            schedule.step()

    return make_steps, model


def numbered(config: SegConfig | DetConfig, accelerator: Accelerator, task: Task) -> Iterator[tuple[int, list[Loaded]]]:
    """The batch of each step, in its parts, with the step's number."""
    return enumerate(batches(make_loader(config, accelerator, task, 0), config.run.accumulate))
