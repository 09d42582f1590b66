"""Ground truth of a few kinds of images, and random raw output of the pico heads."""

import numpy as np
import torch

from det.boxes import RawDetections
from det.heads.pico import NUM_BINS
from det.matching import Targets

SIZE = 128
CLASSES = 3
NOTHING = (np.zeros((0, 4)), np.zeros(0), np.zeros(0))
CROSSING = (np.array([[10, 20, 70, 90], [30, 10, 60, 100.0]]), np.array([0, 2]), np.zeros(2))
CROWDED = (np.array([[0, 0, 50, 128], [60, 60, 90, 110.0]]), np.array([1, 0]), np.array([1, 0]))


def targets_of(images):
    """Targets of images given as (boxes, labels, crowd), padded; padding boxes are empty."""
    most = max(1, *(len(boxes) for boxes, _, _ in images))
    rows = []
    for boxes, labels, crowd in images:
        missing = most - len(boxes)
        rows.append(
            (
                np.pad(boxes, ((0, missing), (0, 0))),
                np.pad(labels, (0, missing)),
                np.pad(crowd == 0, (0, missing)),
                np.pad(crowd == 1, (0, missing)),
            )
        )
    boxes, labels, valid, crowd = (np.stack(part) for part in zip(*rows, strict=True))
    return Targets(
        torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels).long(), torch.tensor(valid), torch.tensor(crowd)
    )


def random_raw(model, count, seed=0):
    """Raw output that differs from cell to cell, with boxes of a few strides."""
    generator = torch.Generator().manual_seed(seed)
    cells = len(model.anchors)
    return RawDetections(
        torch.randn(count, cells, CLASSES, generator=generator) - 1,
        2 * torch.randn(count, cells, 4 * NUM_BINS, generator=generator),
    )
