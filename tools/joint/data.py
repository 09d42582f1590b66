"""The data of a joint network: a data set for each head, of which every step takes a batch each."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch.utils.data import Dataset, Sampler

import det
from backbone.errors import InputError
from seg.data.dataset import SegDataset, SegSample
from seg.data.dataset import collate as collate_segmentation
from tools.converters.annotations import INSTANCE_CLASSES, convert
from tools.io.files import replace_file
from tools.run.config import Run
from tools.run.order import SampleOrder, check_batch


class JointBatch(NamedTuple):
    """A batch for each head; None for a head that does not learn."""

    segmentation: SegSample | None
    detection: det.Batch | None


def collate(samples: Sequence[SegSample | det.Sample]) -> JointBatch:
    """Samples of `JointDataset`, of both kinds in any order -> a batch of each kind."""
    segmentation = [sample for sample in samples if isinstance(sample, SegSample)]
    detection = [sample for sample in samples if isinstance(sample, det.Sample)]
    return JointBatch(
        collate_segmentation(segmentation) if segmentation else None, det.collate(detection) if detection else None
    )


class JointDataset(Dataset):
    """Data sets one after the other, with an order that gives each step a batch of every one of them.

    An item, by (epoch, index), is that of the data set in whose range the index lies.

    Arguments:
        parts: data sets by head.
        batches: images of a step, over all processes, by head.
    """

    def __init__(self, parts: Mapping[str, SegDataset | det.CocoDetection], batches: Mapping[str, int]) -> None:
        self.parts, self.batches = dict(parts), dict(batches)
        self.ranges: dict[str, range] = {}
        start = 0
        for name, part in self.parts.items():
            self.ranges[name] = range(start, start + len(part))
            start += len(part)

    def __len__(self) -> int:
        return sum(map(len, self.ranges.values()))

    def __getitem__(self, key: tuple[int, int]) -> SegSample | det.Sample:
        epoch, index = key
        part, number = self.locate(index)
        return part[epoch, number]

    def locate(self, index: int) -> tuple[SegDataset | det.CocoDetection, int]:
        """The data set that an index belongs to, and its index there."""
        name = next(name for name, own in self.ranges.items() if index in own)
        return self.parts[name], index - self.ranges[name].start

    def order(self, run: Run, *, start: int, process: int, num_processes: int) -> "JointOrder":
        """As `tools.run.order.SampleOrder`, of a batch of each data set in every step."""
        orders = []
        for number, (name, own) in enumerate(self.ranges.items()):
            # Another seed for each, or sets of one size would bring the same numbers, at times the same images.
            of_part = dataclasses.replace(run, batch=self.batches[name], seed=run.seed + number)
            orders.append(
                (own, SampleOrder(len(own), of_part, start=start, process=process, num_processes=num_processes))
            )
        return JointOrder(orders)


class JointOrder(Sampler):
    """Batches of (epoch, index) pairs, those of every data set in turn.

    Arguments:
        orders: the range of indices of each data set, and its own order.
    """

    def __init__(self, orders: Sequence[tuple[range, SampleOrder]]) -> None:
        self.orders = orders

    def __len__(self) -> int:
        return len(self.orders[0][1])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for parts in zip(*(order for _, order in self.orders), strict=True):
            yield [
                (epoch, own.start + number)
                for (own, _), part in zip(self.orders, parts, strict=True)
                for epoch, number in part
            ]


def shares(run: Run, heads: Sequence[str], detection: int | None, num_processes: int) -> dict[str, int]:
    """How many of the images of a step each head learns from.

    Arguments:
        heads: those that learn.
        detection: the key detection.batch.

    Raises:
        InputError: a share is too small or cannot be shared among the processes.
    """
    if len(heads) == 1:
        return {heads[0]: run.batch}
    boxes = run.batch // 2 if detection is None else detection
    batches = {"segmentation": run.batch - boxes, "detection": boxes}
    for name, count in batches.items():
        if count < 1:
            raise InputError(f"detection.batch {boxes} of run.batch {run.batch} leaves no image for {name}")
        try:
            check_batch(dataclasses.replace(run, batch=count), num_processes)
        except InputError as error:
            raise InputError(f"run.batch and detection.batch give {name} {count} images; for these: {error}") from error
    return batches


class BoxFiles(NamedTuple):
    """Where the boxes of a split are."""

    annotations: Path  # COCO's json
    images: Path  # the folder that its file names are relative to


def cityscapes_boxes(root: str | Path, split: str, folder: Path) -> BoxFiles:
    """Boxes around the instances of a split of Cityscapes, as `tools.convert_annotations` makes them.

    Arguments:
        folder: where the json is written, or is from an earlier start of the same run.

    Raises:
        InputError: the tree has no instance labels or no images of this split, or one of them is damaged.
    """
    labels, images = Path(root) / "gtFine" / split, Path(root) / "leftImg8bit" / split
    files = BoxFiles(folder / f"boxes_{split}.json", images)
    if not files.annotations.is_file():
        for path in (images, labels):
            if not path.is_dir():
                raise InputError(f"{path}: no such folder; detection.data.root must be a Cityscapes tree")
        content = convert("cityscapes", labels.resolve(), images.resolve(), INSTANCE_CLASSES)
        text = json.dumps(content)
        replace_file(files.annotations, lambda part: part.write_text(text))
    return files
