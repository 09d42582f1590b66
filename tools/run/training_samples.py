"""The training set of a config, and a sheet of its samples with labels or boxes."""

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

import det
from backbone.data.more import compose
from det.data.transforms import CROWD
from det.predictor import DetectionResult, draw_box
from seg.data.dataset import IGNORE, SegDataset
from seg.data.opening import open_data
from seg.data.transforms import TrainTransform
from seg.predictor import SegmentationResult
from tools.io.files import replace_file
from tools.run.config import DetConfig, SegConfig

TILE_SIDE = 480
"""The longer side of a sample on the sheet, in pixels."""
NUM_COLUMNS = 4
CROWD_COLOR = (160, 160, 160)


def segmentation_set(config: SegConfig) -> SegDataset:
    """The training set of a segmentation experiment."""
    augment = dataclasses.asdict(config.augment)
    crop_hw, more = tuple(augment.pop("crop_hw")), compose(augment.pop("more"))
    transform = TrainTransform(crop_hw, more=more, **augment | {"scale": tuple(augment["scale"])})
    data = config.data
    return open_data(
        data.root,
        data.train_split,
        transform,
        classes=data.classes,
        annotation=data.train_labels,
        prepared=data.prepared,
        seed=config.run.seed,
    )


def detection_set(config: DetConfig) -> det.CocoDetection:
    """The training set of a detection experiment."""
    size, augment = config.model.image_size, config.augment
    return det.CocoDetection(
        config.data.root,
        config.data.train_split,
        transform=det.train_transform(size, augment.strength, config.model.resize, compose(augment.more)),
        seed=config.run.seed,
        mosaic=augment.mosaic,
        mixup=augment.mixup,
        filter_empty=config.data.filter_empty,
    )


def draw_segmentation(config: SegConfig, count: int, epoch: int, out: Path) -> None:
    """Writes a sheet of samples, each beside itself tinted by class; pixels that do not count are black there."""
    dataset = segmentation_set(config)
    colors, tiles = np.array(dataset.colors, np.uint8), []
    for number in spread(len(dataset), count):
        sample = dataset[epoch, number]
        image, labels = to_bgr(sample.image), sample.labels.numpy()
        tinted = SegmentationResult(labels, dataset.classes, colors).draw(image, 0.6)
        tinted[labels == IGNORE] = 0
        tiles.append(np.hstack([shrink(image), shrink(tinted)]))
    write_sheet(tiles, NUM_COLUMNS // 2, out)


def draw_detection(config: DetConfig, count: int, epoch: int, out: Path) -> None:
    """Writes a sheet of samples with the boxes that are learnt; those of crowds are gray."""
    dataset, tiles = detection_set(config), []
    for number in spread(len(dataset), count):
        sample = dataset[epoch, number]
        image = shrink(to_bgr(sample.image))
        boxes, labels = sample.boxes.numpy() * (image.shape[1] / sample.image.shape[2]), sample.labels.numpy()
        for box in boxes[labels == CROWD]:
            draw_box(image, box, "crowd", CROWD_COLOR)
        objects = labels != CROWD
        ones = np.ones(objects.sum(), np.float32)
        result = DetectionResult(boxes[objects], ones, labels[objects], dataset.classes)
        tiles.append(result.draw(image, show_scores=False))
    write_sheet(tiles, NUM_COLUMNS, out)


def spread(size: int, count: int) -> list[int]:
    """`count` numbers evenly spread over 0 to `size` - 1, or all of them where there are no more."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(int)).tolist()


def to_bgr(image: Tensor) -> np.ndarray:
    """uint8 RGB `[3, H, W]` as OpenCV has it, uint8 BGR `[H, W, 3]`."""
    return cv2.merge(list(image.numpy()[::-1]))


def shrink(image: np.ndarray) -> np.ndarray:
    """An image `[H, W, 3]` with a longer side of `TILE_SIDE`."""
    scale = TILE_SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def write_sheet(tiles: list[np.ndarray], columns: int, out: Path) -> None:
    """Writes tiles of one size as a PNG, row by row; the last row is filled up with black.

    Raises:
        InputError: the file cannot be written.
    """
    columns = min(columns, len(tiles))
    tiles = tiles + [np.zeros_like(tiles[0])] * (math.ceil(len(tiles) / columns) * columns - len(tiles))
    sheet = np.vstack([np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)])
    png = cv2.imencode(".png", sheet)[1].tobytes()
    replace_file(out, lambda part: part.write_bytes(png))
