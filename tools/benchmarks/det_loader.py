"""Detection samples from JPEG files, by the training's augmentation and by torchvision's SSD preset, in one process.

torchvision's is the preset "ssd" of its references, on Pillow's images, their default, and on tensors (--backend
tensor). It leaves resizing to the model, which does it image by image, bilinear on the float tensor; here the preset
ends with that, so that all give 320x320. Theirs are float32, ours uint8: the training step normalises them.
"""

import itertools
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

import det
from tools.benchmarks.timing import alternate, print_times
from tools.io.console import console
from tools.run.processes import single_thread

SIDE = 320  # pixels
PILLOW, TENSORS, OURS = "torchvision, Pillow", "torchvision, tensors", "taproot"


def benchmark(*, data: Path, split: str, images: int, rounds: int) -> None:
    """Prints the comparison in processor time.

    Arguments:
        data: folder with annotations/ and the images.
        images: samples in a round.
    """
    single_thread(0)
    ours = det.CocoDetection(data, split, transform=det.train_transform(SIDE))
    plain = det.CocoDetection(data, split)
    epochs = itertools.count()
    indices = range(min(images, len(ours)))

    def load_ours() -> None:
        epoch = next(epochs)
        for index in indices:
            ours[(epoch, index)]

    def load_theirs(preset: v2.Compose) -> None:
        for index in indices:
            with Image.open(plain.folder / str(plain.files[index])) as file:
                image = file.convert("RGB")
            rows = slice(plain.first[index], plain.first[index + 1])
            boxes = tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue] - it reads Tensor's signature
                plain.boxes[rows], format="XYXY", canvas_size=(image.height, image.width)
            )
            preset(image, {"boxes": boxes, "labels": torch.from_numpy(plain.labels[rows])})

    augment = [
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill=[123, 117, 104]),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
    ]
    finish = [
        v2.ToDtype(torch.float32, scale=True),
        v2.SanitizeBoundingBoxes(),
        v2.Resize((SIDE, SIDE), antialias=False),
        v2.ToPureTensor(),
    ]
    contenders = {
        PILLOW: partial(load_theirs, v2.Compose([*augment, v2.PILToTensor(), *finish])),
        TENSORS: partial(load_theirs, v2.Compose([v2.PILToTensor(), *augment, *finish])),
        OURS: load_ours,
    }
    seconds = alternate(contenders, rounds, clock=time.process_time)
    print_times(f"{len(indices)} samples, processor time", seconds, PILLOW)
    console.print(f"taproot: {len(indices) / statistics.median(seconds[OURS]):.0f} samples/s and core")
