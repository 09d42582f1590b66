"""Pictures of what a model in training finds in some validation images, the same ones at each evaluation."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import det
from backbone.data.images import read_image
from det.predictor import DetectionResult
from seg.data.dataset import SegDataset
from seg.predictor import SegmentationResult
from tools.io.files import replace_file
from tools.run.config import Run
from tools.run.disk import Disk
from tools.run.log import Log
from tools.run.task import Task, TaskDataset, image_path, kinds
from tools.scoring.detection import Find
from tools.streams.overlay import WIDEST, with_legend

LONGEST = 960
"""Pixels of the longer side of each half of a picture."""
SCORE_THRESHOLD = 0.3
"""Boxes are drawn that score above it, as `tools.predict` does."""
JPEG_QUALITY = 90


def chosen(count: int, samples: int) -> list[int]:
    """Which of `count` images are drawn: `samples` of them, evenly spread."""
    return sorted({round(number) for number in np.linspace(0, count - 1, min(samples, count))})


def drawn(dataset: TaskDataset, samples: int) -> list[int]:
    """The numbers of the images of a data set that are drawn, of each kind the same number."""
    parts = kinds(dataset)
    shares = [len(range(position, samples, len(parts))) for position in range(len(parts))]
    return [own[number] for own, share in zip(parts, shares, strict=True) for number in chosen(len(own), share)]


def write_samples(task: Task, run: Run, model: nn.Module, step: int, log: Log, disk: Disk) -> None:
    """Draws what a model in evaluation mode finds, into `samples/IMAGE/STEP.jpg` of the run's folder and the trackers.

    The main process does it alone. Nothing in it is random.

    Raises:
        InputError: a file cannot be written for another reason than a full disk.
    """
    if task.draw is None:
        return
    pictures = {}
    for position, number in enumerate(drawn(task.val_set, run.samples)):
        name = f"{position}_{image_path(task.val_set, number).stem}"
        picture = task.draw(model, number)
        path = Path(run.out) / "samples" / name / f"{step:07d}.jpg"
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        disk.write(path, lambda path=path, encoded=encoded: replace_file(path, lambda part: part.write_bytes(encoded)))
        pictures[f"samples/{name}"] = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    log.draw(step, pictures)


@torch.inference_mode()
def draw_segmentation(label: Callable[[Tensor], np.ndarray], dataset: SegDataset, number: int) -> np.ndarray:
    """True and predicted labels of an image over it, uint8 BGR; what has no label is darkened in the true ones.

    Arguments:
        label: image uint8 RGB [3, H, W] -> labels uint8 [H, W].
    """
    sample = dataset[number]
    frame = np.ascontiguousarray(sample.image.permute(1, 2, 0).flip(-1).numpy())
    found = [sample.labels.numpy(), label(sample.image)]
    height, width = _shown_hw(frame)
    frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    found = [cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for labels in found]
    colors = np.array(dataset.colors, np.uint8)
    results = [SegmentationResult(labels, dataset.classes, colors) for labels in found]
    image = _beside([result.draw(frame) for result in results])
    both = SegmentationResult(np.concatenate(found), dataset.classes, colors)  # for the names of all classes in either
    return with_legend(image, [both], 0.0, min(height, width))


@torch.inference_mode()
def draw_detection(find: Find, dataset: det.CocoDetection, number: int) -> np.ndarray:
    """True and predicted boxes of an image on it, uint8 BGR; crowds are left out.

    Arguments:
        find: of a model in evaluation mode.
        dataset: with a transform that makes the model's inputs.
    """
    sample = dataset[number]
    (found,) = find(sample.image[None], [list(sample.original_size_hw)])
    frame = read_image(dataset.folder / str(dataset.files[number]))
    height, width = _shown_hw(frame)
    scale = width / frame.shape[1]
    frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    mine = slice(dataset.first[number], dataset.first[number + 1])
    objects = dataset.labels[mine] >= 0
    boxes, labels = dataset.boxes[mine][objects], dataset.labels[mine][objects]
    true = DetectionResult(boxes * scale, np.ones(len(boxes), np.float32), labels, dataset.classes)
    predicted = DetectionResult(
        found.boxes.cpu().numpy() * scale, found.scores.cpu().numpy(), found.labels.cpu().numpy(), dataset.classes
    )
    drawn = [true.draw(frame, show_scores=False), predicted.draw(frame, score_threshold=SCORE_THRESHOLD)]
    return _beside(drawn)


def _shown_hw(frame: np.ndarray) -> tuple[int, int]:
    """The (height, width) that an image is drawn at."""
    height, width = frame.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _beside(images: list[np.ndarray]) -> np.ndarray:
    """The truth and what was predicted, in this order: side by side, or one above the other where they are wide."""
    height, width = images[0].shape[:2]
    wide = width > WIDEST * height + 1
    gap = np.zeros((4, width, 3) if wide else (height, 4, 3), np.uint8)
    return np.concatenate([images[0], gap, images[1]], axis=0 if wide else 1)
