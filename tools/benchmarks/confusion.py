"""An image's confusion matrix on one thread, beside the ways it is usually counted."""

import time

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch

from seg.data.cityscapes import NAMES
from seg.data.dataset import IGNORE
from seg.metrics import confusion_matrix
from tools.benchmarks.timing import alternate, medians
from tools.io.console import console, table

SIZE_HW = (1024, 2048)
BINCOUNT, SMP, OURS = "numpy bincount", "smp.metrics.get_stats", "taproot"


def benchmark(*, images: int) -> None:
    """Prints the comparison.

    Arguments:
        images: how often the same pair of label maps is counted.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    random, count = np.random.default_rng(0), len(NAMES)
    coarse = random.choice([*range(count), IGNORE], (16, 32)).astype(np.uint8)
    labels = cv2.resize(coarse, SIZE_HW[::-1], interpolation=cv2.INTER_NEAREST)
    guesses = random.integers(0, count, SIZE_HW, dtype=np.uint8)
    predictions = np.where((random.random(SIZE_HW) < 0.2) | (labels == IGNORE), guesses, labels).astype(np.uint8)
    found: dict[str, np.ndarray] = {}

    def by_bincount() -> None:
        truth, guess = labels.astype(np.int64), predictions.astype(np.int64)
        valid = (truth >= 0) & (truth < count)
        flat = np.bincount(count * truth[valid] + guess[valid], minlength=count**2)
        found[BINCOUNT] = flat.reshape(count, count)

    def by_smp() -> None:
        maps = [torch.from_numpy(array).long()[None] for array in (predictions, labels)]
        hits, *_ = smp.metrics.get_stats(
            *maps,  # pyright: ignore[reportArgumentType] - smp's annotation is narrower than what it takes
            mode="multiclass",
            ignore_index=IGNORE,
            num_classes=count,
        )
        found[SMP] = hits[0].numpy()

    def ours() -> None:
        found[OURS] = confusion_matrix(labels, predictions, count)

    contenders = {BINCOUNT: by_bincount, SMP: by_smp, OURS: ours}
    seconds = medians(alternate(contenders, images, clock=time.process_time))
    rows = [
        [name, f"{1000 * value:.1f}", f"{500 * value:.1f}", f"{value / seconds[OURS]:.1f}x"]
        for name, value in seconds.items()
    ]
    console.print(table("confusion matrix of 1024x2048, 19 classes", ["", "ms", "s for 500", "of ours"], rows))
    same = (found[OURS][:, :count] == found[BINCOUNT]).all() and (found[OURS].diagonal() == found[SMP]).all()
    console.print(f"equal counts: {'yes' if same else 'NO'}; {images} images, one thread")
