"""Metrics of label maps from one confusion matrix over the whole set, as the Cityscapes protocol defines them."""

import cv2
import numpy as np

STEP = 1 << 15
"""Pixels of each quarter of an image that are counted at a time: few enough for a core's cache."""


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pixels of each pair of label and prediction.

    Arguments:
        labels: uint8 [H, W], classes 0..K-1; pixels labelled 255 do not count.
        predictions: uint8 [H, W].
        num_classes: K.

    Returns:
        int64 [K, K + 1], rows by label, columns by prediction. The last column counts predictions that are none of the
        classes, which are wrong whatever the label.
    """
    labels, predictions = labels.reshape(-1), predictions.reshape(-1)
    counts = np.zeros((num_classes, 256), np.int64)
    quarter = labels.size // 4
    for start in range(0, quarter, STEP):
        stop = min(start + STEP, quarter)
        mixed_labels, mixed = (_interleave(array, quarter, start, stop) for array in (labels, predictions))
        counts += _histogram(mixed_labels, mixed, num_classes)
    if labels.size % 4:
        counts += _histogram(labels[4 * quarter :], predictions[4 * quarter :], num_classes)
    return np.column_stack([counts[:, :num_classes], counts[:, num_classes:].sum(1)])


def _interleave(values: np.ndarray, quarter: int, start: int, stop: int) -> np.ndarray:
    """Pixels start..stop of each quarter of a map [H * W], in turn: uint8 [4 * (stop - start)].

    Consecutive increments of one bin stall, and neighbours mostly share a label.
    """
    return cv2.merge([values[begin + start : begin + stop] for begin in range(0, 4 * quarter, quarter)]).reshape(-1)


def _histogram(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How often each pair of label and prediction occurs: int64 [num_classes, 256].

    OpenCV counts in float32, which is exact up to 2^24 pixels.
    """
    ranges = [0, num_classes, 0, 256]
    return cv2.calcHist([labels, predictions], [0, 1], None, [num_classes, 256], ranges).astype(np.int64)


def iou_metrics(confusion: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Intersection over union.

    Arguments:
        confusion: int64 [K, K + 1], as `confusion_matrix` gives it.
        classes: the K names.

    Returns:
        `miou` over the classes that occur in the labels, `pixel_accuracy`, and `iou/NAME` for each class, all 0 to 1.
        A class without labelled pixels is NaN and in no mean.
    """
    hits = np.diagonal(confusion).astype(np.float64)
    labelled = confusion.sum(1)
    union = labelled + confusion[:, : len(classes)].sum(0) - hits
    present = labelled > 0
    iou = np.full(len(classes), np.nan)
    iou[present] = hits[present] / union[present]
    metrics = {
        "miou": float(iou[present].mean()) if present.any() else float("nan"),
        "pixel_accuracy": float(hits.sum() / labelled.sum()) if present.any() else float("nan"),
    }
    return metrics | {f"iou/{name}": float(value) for name, value in zip(classes, iou, strict=True)}
