"""A sheet of training samples with their labels or boxes, as training sees them."""

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from det.data.transforms import CROWD
from det.predictor import DetectionResult, draw_box
from seg.data.dataset import IGNORE
from seg.predictor import SegmentationResult
from tools.checks.samples import shrink, spread, write_sheet
from tools.run import detection, segmentation
from tools.run.config import DetConfig, SegConfig

NUM_COLUMNS = 4
CROWD_COLOR = (160, 160, 160)


def draw_segmentation(config: SegConfig, count: int, epoch: int, out: Path) -> None:
    """Writes a sheet of samples, each beside itself tinted by class; pixels that do not count are black there."""
    dataset = segmentation.make_train_set(config)
    colors, tiles = np.array(dataset.colors, np.uint8), []
    for number in spread(range(len(dataset)), count):
        sample = dataset[epoch, number]
        image, labels = to_bgr(sample.image), sample.labels.numpy()
        tinted = SegmentationResult(labels, dataset.classes, colors).draw(image, 0.6)
        tinted[labels == IGNORE] = 0
        tiles += [shrink(image), shrink(tinted)]
    write_sheet(out, in_rows(tiles))


def draw_detection(config: DetConfig, count: int, epoch: int, out: Path) -> None:
    """Writes a sheet of samples with the boxes that are learnt; those of crowds are gray."""
    dataset, tiles = detection.make_train_set(config), []
    for number in spread(range(len(dataset)), count):
        sample = dataset[epoch, number]
        image = shrink(to_bgr(sample.image))
        boxes, labels = sample.boxes.numpy() * (image.shape[1] / sample.image.shape[2]), sample.labels.numpy()
        for box in boxes[labels == CROWD]:
            draw_box(image, box, "crowd", CROWD_COLOR)
        objects = labels != CROWD
        ones = np.ones(objects.sum(), np.float32)
        result = DetectionResult(boxes[objects], ones, labels[objects], dataset.classes)
        tiles.append(result.draw(image, show_scores=False))
    write_sheet(out, in_rows(tiles))


def to_bgr(image: Tensor) -> np.ndarray:
    """uint8 RGB `[3, H, W]` as OpenCV has it, uint8 BGR `[H, W, 3]`."""
    return cv2.merge(list(image.numpy()[::-1]))


def in_rows(tiles: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The tiles of a sheet, row by row."""
    return [tiles[first : first + NUM_COLUMNS] for first in range(0, len(tiles), NUM_COLUMNS)]
