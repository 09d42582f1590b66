"""What the training of one task is, apart from the loop that all tasks share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Sampler

from backbone.data.folder import ImageFolder
from det.data.coco import CocoDetection
from seg.data.dataset import SegDataset
from tools.joint.data import JointDataset
from tools.run.config import Run
from tools.run.order import SampleOrder
from tools.run.teacher import Teacher

Loss = Callable[[nn.Module, Any], dict[str, Tensor]]
"""(model, batch on the device) -> terms, scalars by name, which are added up."""

TaskDataset = SegDataset | CocoDetection | ImageFolder | JointDataset


def image_path(dataset: TaskDataset, index: int) -> Path:
    """The file of an image of a data set."""
    if isinstance(dataset, JointDataset):
        return image_path(*dataset.locate(index))
    if isinstance(dataset, CocoDetection):
        return dataset.folder / str(dataset.files[index])
    return dataset.images[index]


def sample_order(dataset: TaskDataset, run: Run, *, start: int, process: int, num_processes: int) -> Sampler:
    """The samples of a process's steps from `start` on; see `SampleOrder`."""
    if isinstance(dataset, JointDataset):
        return dataset.order(run, start=start, process=process, num_processes=num_processes)
    return SampleOrder(len(dataset), run, start=start, process=process, num_processes=num_processes)


def kinds(dataset: TaskDataset) -> list[range]:
    """The indices of a data set's images, by kind; those of a kind may take each other's place."""
    return list(dataset.ranges.values()) if isinstance(dataset, JointDataset) else [range(len(dataset))]


@dataclass(frozen=True)
class Task:
    """A model, its data, and how it is trained and evaluated."""

    model: nn.Module
    load_weights: Callable[[str], str]  # loads a file into `model` and says what was found in it
    train_set: TaskDataset
    val_set: TaskDataset
    collate: Callable[[list], Any]  # samples of `train_set` -> a batch, a (nested) NamedTuple of tensors
    loss: Loss
    evaluate: Callable[[nn.Module], dict[str, float]]  # metrics of a model; every process calls it
    score: str  # the metric by which the best weights are kept, higher being better
    description: dict[str, Any]  # what the header of best.safetensors says of them
    next_command: str  # the tool that evaluates what was trained, and its options but --weights
    notes: tuple[str, ...] = ()  # lines about the data, printed at the start
    teacher: Teacher | None = None  # that the loss asks
    draw: Callable[[nn.Module, int], np.ndarray] | None = None  # truth and prediction of a validation image, uint8 BGR
    before_step: Callable[[int], None] | None = None  # called with a step's number, for what is scheduled in the model
    measured: Callable[[], dict[str, float]] | None = None  # what the newest steps measured, for the log
