"""A training step of SSDLite Large, from bytes to changed weights, beside torchvision's ssdlite320."""

from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import nn

import det
from backbone.inference import normalise
from tools.benchmarks.timing import alternate, print_times
from tools.run.config import Optim
from tools.run.optimizer import make_optimizer

NUM_CLASSES = 90
SIDE = 320  # pixels; torchvision's own transform would resize to this


def benchmark(*, batch: int, rounds: int, eager: bool) -> None:
    """Prints the comparison.

    Arguments:
        batch: images in a step.
        eager: leave the compiled step out.
    """
    samples = make_samples(batch)
    contenders = {"torchvision": make_peer_step(samples), "taproot": make_step(samples, compiled=False)}
    if not eager:
        contenders["taproot, compiled"] = make_step(samples, compiled=True)
    print_times(f"a training step of {batch} images", alternate(contenders, rounds), "torchvision")


def make_samples(count: int) -> list[det.Sample]:
    """Random images of `SIDE` with seven random boxes each."""
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (count, 3, SIDE, SIDE), np.uint8))
    samples = []
    for number in range(count):
        corners = generator.uniform(0, 240, (7, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(8, 80, (7, 2))], axis=1)
        labels = torch.from_numpy(generator.integers(0, NUM_CLASSES, 7))
        boxes_xyxy = torch.tensor(boxes, dtype=torch.float32)
        samples.append(det.Sample(images[number], boxes_xyxy, labels, number, (SIDE, SIDE)))
    return samples


def make_step(samples: list[det.Sample], *, compiled: bool) -> Callable[[], None]:
    """Our step, as `tools.train_det` does it."""
    torch.manual_seed(0)
    model = det.create(num_classes=NUM_CLASSES + 1, variant="torchvision").to(memory_format=torch.channels_last)
    criterion = det.DetectionLoss("softmax", background=True)
    optimizer = make_optimizer([model.parameters()], Optim(name="sgd", lr=0.01))

    def loss(model: nn.Module, batch: det.Batch) -> dict[str, torch.Tensor]:
        images = normalise(batch.images, (0.5,) * 3, (0.5,) * 3)
        return criterion(model(images), model.anchors, batch.targets)

    if compiled:
        loss = torch.compile(loss, dynamic=False, fullgraph=True)

    def step() -> None:
        total = sum(loss(model, det.collate(samples)).values(), torch.zeros(()))
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_peer_step(samples: list[det.Sample]) -> Callable[[], None]:
    """torchvision's step, as its reference script does it."""
    torch.manual_seed(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)

    def step() -> None:
        images = [sample.image.float() / 255 for sample in samples]
        targets = [{"boxes": sample.boxes, "labels": sample.labels + 1} for sample in samples]
        total = sum(model(images, targets).values(), torch.zeros(()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step
