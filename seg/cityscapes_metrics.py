"""The metrics of the official Cityscapes evaluation: IoU of classes and categories, and weighted by instance (iIoU)."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from seg.data.cityscapes import CLASSES, IGNORE, NAMES, TRAIN_CLASSES

AVERAGE_INSTANCE_SIZE = {
    # Pixels, over the instances of the fine training set: the constants of the official evaluation script.
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}

CATEGORIES = list(dict.fromkeys(row.category for row in TRAIN_CLASSES))
INSTANCE_CATEGORIES = ("human", "vehicle")  # those whose classes all have instances
INSTANCE_ID_FACTOR = 1000  # an instance id is label_id * 1000 + number; ids up to 1000 are regions without instances

_CATEGORY_OF_CLASS = np.array([CATEGORIES.index(row.category) for row in TRAIN_CLASSES])
_NO_CATEGORY = 254
_CATEGORY_OF_LABEL_ID = np.full(256, _NO_CATEGORY, np.uint8)
for _row in CLASSES:
    if _row.category != "void":
        _CATEGORY_OF_LABEL_ID[_row.label_id] = CATEGORIES.index(_row.category)
_THINGS = [row.label_id for row in CLASSES if row.category in INSTANCE_CATEGORIES]
_UNSCORED_THINGS = [label_id for label_id in _THINGS if CLASSES[label_id].train_id == IGNORE]
"""Caravan and trailer: not evaluated as classes, but predicting them counts for and against the vehicles' iIoU."""


class InstanceCounts:
    """How many pixels of each instance were found, over a set.

    Instances of one class and size are added up, as integers: the result depends neither on the order of the images
    nor on the number of processes, and memory does not grow with the set.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], np.ndarray] = {}
        """(label_id, size in pixels) -> [instances, pixels found as the class, pixels found as its category]."""
        self.wrong_category = np.zeros(len(CATEGORIES), np.int64)
        """By category: pixels of another category that were predicted as one of its classes that is not evaluated."""

    def add(self, labels: np.ndarray, predicted_ids: np.ndarray, instance_ids: np.ndarray, source: Path) -> None:
        """Counts an image.

        Arguments:
            labels: train ids, uint8 [H, W].
            predicted_ids: label ids, uint8 [H, W].
            instance_ids: integers [H, W], as the file `source` holds them.

        Raises:
            InputError: the instances have another size than the labels, or are of a class without instances.
        """
        if instance_ids.shape != labels.shape:
            raise InputError(f"{source}: is {_size(instance_ids)}, its labels {_size(labels)}; both must have one size")
        mask = instance_ids > INSTANCE_ID_FACTOR
        ids, predicted = instance_ids[mask].astype(np.int64), predicted_ids[mask]
        label_ids = ids // INSTANCE_ID_FACTOR
        unknown = ids[~np.isin(label_ids, _THINGS)]
        if unknown.size:
            raise InputError(f"{source}: id {unknown[0]} is not of a class with instances (24001 to 33999)")
        in_category = _CATEGORY_OF_LABEL_ID[predicted] == _CATEGORY_OF_LABEL_ID[label_ids]
        sizes = np.bincount(ids)
        hits = np.bincount(ids[predicted == label_ids], minlength=len(sizes))
        category_hits = np.bincount(ids[in_category], minlength=len(sizes))
        for instance in np.flatnonzero(sizes):
            key = int(instance) // INSTANCE_ID_FACTOR, int(sizes[instance])
            entry = np.array([1, hits[instance], category_hits[instance]])
            self.found[key] = self.found.get(key, 0) + entry
        unscored = np.isin(predicted_ids, _UNSCORED_THINGS) & (labels != IGNORE)
        if unscored.any():
            category = _CATEGORY_OF_LABEL_ID[predicted_ids[unscored]]
            wrong = category != _CATEGORY_OF_CLASS[labels[unscored]]
            self.wrong_category += np.bincount(category[wrong], minlength=len(CATEGORIES))

    def merge(self, other: "InstanceCounts") -> None:
        """Adds the counts of another part of the set."""
        for key, entry in other.found.items():
            self.found[key] = self.found.get(key, 0) + entry
        self.wrong_category = self.wrong_category + other.wrong_category


def cityscapes_metrics(confusion: np.ndarray, instances: InstanceCounts | None) -> dict[str, float]:
    """The metrics of `evalPixelLevelSemanticLabeling`, equal to its own to 1e-12.

    Arguments:
        confusion: int64 [19, 20] over train ids, as `seg.metrics.confusion_matrix` gives it.
        instances: of the same predictions; without them there is no iIoU.

    Returns:
        `miou`, `category_miou`, `iou/CLASS`, `category_iou/CATEGORY`, and with instances `miiou`, `category_miiou`,
        `iiou/CLASS`, `category_iiou/CATEGORY`, all 0 to 1. A class that is neither in the labels nor predicted is NaN
        and in no mean; one that is only predicted scores 0 and counts, unlike in `seg.metrics.iou_metrics`.
    """
    by_class = confusion[:, : len(NAMES)]
    one_category = np.equal.outer(_CATEGORY_OF_CLASS, np.arange(len(CATEGORIES)))  # [19, 7]
    by_category = one_category.T @ by_class @ one_category  # [7, 7]
    labelled = confusion.sum(1)
    metrics = _with_mean("miou", "iou", NAMES, _iou(by_class, labelled))
    metrics |= _with_mean("category_miou", "category_iou", CATEGORIES, _iou(by_category, labelled @ one_category))
    if instances is None:
        return metrics

    class_iou, category_iou = [], []
    for row in TRAIN_CLASSES:
        if row.name in AVERAGE_INSTANCE_SIZE:
            found, missed = _weighted(instances, [row.label_id], category=False)
            wrong = int(by_class[:, row.train_id].sum() - by_class[row.train_id, row.train_id])
            class_iou.append(_ratio(found, found + missed + wrong))
    for name in INSTANCE_CATEGORIES:
        category = CATEGORIES.index(name)
        label_ids = [row.label_id for row in TRAIN_CLASSES if row.category == name]
        found, missed = _weighted(instances, label_ids, category=True)
        wrong = int(by_category[:, category].sum() - by_category[category, category])
        wrong += int(instances.wrong_category[category])
        category_iou.append(_ratio(found, found + missed + wrong))
    metrics |= _with_mean("miiou", "iiou", list(AVERAGE_INSTANCE_SIZE), class_iou)
    return metrics | _with_mean("category_miiou", "category_iiou", list(INSTANCE_CATEGORIES), category_iou)


def _iou(confusion: np.ndarray, labelled: np.ndarray) -> list[float]:
    """Of counts [K, K] and labelled pixels [K], which include those predicted as none of the K."""
    hits = np.diagonal(confusion)
    union = labelled + confusion.sum(0) - hits
    return [_ratio(int(hit), int(total)) for hit, total in zip(hits, union, strict=True)]


def _weighted(instances: InstanceCounts, label_ids: list[int], *, category: bool) -> tuple[float, float]:
    """Pixels found and missed, each instance weighted by the average size of its class over its own size."""
    terms = defaultdict(list)
    for (label_id, size), (count, hits, category_hits) in sorted(instances.found.items()):
        if label_id in label_ids:
            weight = AVERAGE_INSTANCE_SIZE[CLASSES[label_id].name] / size
            found = int(category_hits if category else hits)
            terms["found"].append(found * weight)
            terms["missed"].append((int(count) * size - found) * weight)
    return math.fsum(terms["found"]), math.fsum(terms["missed"])


def _size(values: np.ndarray) -> str:
    return f"{values.shape[1]}x{values.shape[0]}"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _with_mean(mean: str, kind: str, names: list[str], values: list[float]) -> dict[str, float]:
    known = [value for value in values if not math.isnan(value)]
    metrics = {mean: sum(known) / len(known) if known else math.nan}
    return metrics | {f"{kind}/{name}": value for name, value in zip(names, values, strict=True)}
