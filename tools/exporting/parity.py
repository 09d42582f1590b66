"""Whether a file, run by its runtime, gives what the model gives in float32.

Numbers may differ by TOLERANCE of the largest. A decision that follows from them, a label or whether a box stays, may
differ only where the model's own numbers decide by less than rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from backbone.inference import normalise
from det.model import Detector
from det.postprocess import StaticDetections, StaticPostProcess
from seg.model import upsample

TOLERANCE = 1e-4
"""Of numbers, relative to the largest of the output; of scores, absolute."""
BOX_PIXELS = 0.1
"""By how much the sides of a box may differ."""
EDGE = 1e-5
"""A score nearer than this to a threshold, or an overlap nearer than ten times this, decides by rounding."""


class Comparison(NamedTuple):
    """What the comparison on all images found."""

    figures: dict[str, Any]  # for the record
    summary: str  # the figures in a few words
    fault: str | None  # why the file is refused, on one line


def compare(
    model: nn.Module,
    description: Mapping[str, Any],
    run: Callable[[np.ndarray], dict[str, np.ndarray]],
    inputs: Sequence[np.ndarray],
) -> Comparison:
    """Compares a file with its model.

    Arguments:
        model: in float32, as it was loaded.
        description: the graph's, with its `export` entry.
        run: the file: images uint8 [N, H, W, 3] -> outputs by name.
        inputs: images uint8 [N, H, W, 3] each.
    """
    export = description["export"]
    if export["output"] == "raw":
        tally: _Numbers | _Labels | _Boxes = _Numbers(export["outputs"])
    else:
        tally = _Boxes(model, description) if isinstance(model, Detector) else _Labels()
    model = model.eval()
    for images in inputs:
        rgb = images[..., ::-1] if export["channels"] == "bgr" else images
        tensor = torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            values = model(normalise(tensor, description["mean"], description["std"], channels_last=False))
            tally.add(run(images), values)
    return tally.result()


class _Numbers:
    """Raw outputs: the largest difference of each, relative to its largest value."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.difference = dict.fromkeys(names, 0.0)
        self.largest = dict.fromkeys(names, 0.0)
        self.fault: str | None = None

    def add(self, found: dict[str, np.ndarray], values: Tensor | Sequence[Tensor] | Mapping[str, Tensor]) -> None:
        if isinstance(values, Tensor):
            values = (values,)
        expected = values.values() if isinstance(values, Mapping) else values
        for name, value in zip(self.names, expected, strict=True):
            want, got = value.numpy(), found[name]
            if got.shape != want.shape or not np.isfinite(got).all():
                self.fault = f"{name} is {list(got.shape)}, not {list(want.shape)}, or not finite"
                return
            self.difference[name] = max(self.difference[name], float(np.abs(got - want).max()))
            self.largest[name] = max(self.largest[name], float(np.abs(want).max()))

    def result(self) -> Comparison:
        relative = {name: self.difference[name] / max(self.largest[name], 1e-30) for name in self.names}
        outputs = {
            name: {"largest_difference": self.difference[name], "largest_value": self.largest[name], "relative": share}
            for name, share in relative.items()
        }
        worst = max(relative, key=lambda name: relative[name])
        fault = self.fault
        if fault is None and not relative[worst] <= TOLERANCE:
            fault = f"{worst} differs by {relative[worst]:.2g} of its largest value; allowed are {TOLERANCE:g}"
        summary = ", ".join(f"{name} {share:.1e}" for name, share in relative.items())
        summary = f"largest difference relative to the largest value: {summary}"
        return Comparison({"tolerance": TOLERANCE, "outputs": outputs}, summary, fault)


class _Labels:
    """Labels of pixels: equal, or different where the two largest logits differ by less than the tolerance."""

    def __init__(self) -> None:
        self.pixels = self.different = self.wrong = 0

    def add(self, found: dict[str, np.ndarray], logits: Tensor) -> None:
        labels = torch.from_numpy(found["labels"]).long()
        logits = upsample(logits, labels.shape[1:])
        best, winner = logits.max(1)
        other = labels != winner
        chosen = logits.gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
        # Both logits may be off by the tolerance.
        wrong = other & ((best - chosen > 2 * TOLERANCE * logits.abs().max()) | (labels >= logits.shape[1]))
        self.pixels += labels.numel()
        self.different += int(other.sum())
        self.wrong += int(wrong.sum())

    def result(self) -> Comparison:
        figures = {
            "tolerance": TOLERANCE,
            "pixels": self.pixels,
            "equal_labels": 1 - self.different / self.pixels,
            "labels_decided_by_rounding": self.different - self.wrong,
            "labels_that_differ": self.wrong,
        }
        fault = f"{self.wrong} of {self.pixels} labels differ" if self.wrong else None
        summary = f"{self.pixels - self.different} of {self.pixels} labels equal, the others decided by rounding"
        return Comparison(figures, summary, fault)


class _Boxes:
    """Boxes: each of the model's is found, and no other.

    Near the edges, where rounding decides whether a box stays, both are right: the model's boxes are computed with
    thresholds a little lower and a little higher too. Boxes that all of them have must be found; those that none of
    them has must not.
    """

    def __init__(self, model: Detector, description: Mapping[str, Any]) -> None:
        export = description["export"]
        size_hw = tuple(export["size"])
        self.fixed: list[StaticPostProcess] = []
        for shift in (0.0, -1.0, 1.0):
            self.fixed.append(
                StaticPostProcess(
                    model.anchors_for(size_hw),
                    size_hw,
                    kind=description["score"],
                    background=model.background,
                    score_threshold=export["score_threshold"],
                    nms_iou=export["nms_iou"] + shift * 10 * EDGE,
                    decode=model.head.decode,
                )
            )
        self.threshold = export["score_threshold"]
        self.boxes = self.rounded = self.wrong = 0
        self.box_difference = self.score_difference = 0.0

    def add(self, found: dict[str, np.ndarray], raw: Sequence[Tensor]) -> None:
        variants = [process(*raw) for process in self.fixed]
        for image in range(len(found["scores"])):
            self._image({name: value[image] for name, value in found.items()}, variants, image)

    def _image(self, found: dict[str, np.ndarray], variants: list[StaticDetections], image: int) -> None:
        boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
        there = scores > 0
        ours = [self._numpy(variant, image) for variant in variants]
        self.boxes += len(ours[0][1])
        # Below the last of a full list, and near the threshold, rounding decides which boxes are in it.
        edge = self.threshold
        if len(ours[0][1]) == len(scores):
            edge = max(edge, float(ours[0][1].min()))
        matched_by: list[np.ndarray] = []
        for index, (want_boxes, want_scores, want_labels) in enumerate(ours):
            apart = np.abs(want_boxes[:, None] - boxes[None, there]).max(-1, initial=0)
            off = np.abs(want_scores[:, None] - scores[None, there])
            same = (want_labels[:, None] == labels[None, there]) & (apart <= BOX_PIXELS) & (off <= TOLERANCE)
            matched_by.append(same)
            if index == 0 and same.any():
                self.box_difference = max(self.box_difference, _nearest(apart, same))
                self.score_difference = max(self.score_difference, _nearest(off, same))
        # Boxes of the model that the file lacks, though every variant has them.
        lacking = ~matched_by[0].any(1) & (ours[0][1] > edge + EDGE)
        for want_boxes, want_scores, want_labels in ours[1:]:
            apart = np.abs(ours[0][0][:, None] - want_boxes[None]).max(-1, initial=0)
            kept = (ours[0][2][:, None] == want_labels[None]) & (apart <= BOX_PIXELS)
            kept &= np.abs(ours[0][1][:, None] - want_scores[None]) <= TOLERANCE
            lacking &= kept.any(1)
        # Boxes of the file that no variant has.
        known = np.any([same.any(0) for same in matched_by], axis=0)
        extra = ~known & (scores[there] > edge + EDGE)
        ordered = bool((np.diff(scores) <= TOLERANCE).all())
        self.wrong += int(lacking.sum()) + int(extra.sum()) + (not ordered)
        self.rounded += int((~matched_by[0].any(1)).sum()) - int(lacking.sum())

    @staticmethod
    def _numpy(found: StaticDetections, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        valid = found.valid[image]
        return tuple(part[image][valid].numpy() for part in found[:3])  # pyright: ignore[reportReturnType] - three

    def result(self) -> Comparison:
        figures = {
            "tolerance": {"box_pixels": BOX_PIXELS, "score": TOLERANCE},
            "boxes": self.boxes,
            "boxes_that_differ": self.wrong,
            "boxes_decided_by_rounding": self.rounded,
            "largest_box_difference": self.box_difference,
            "largest_score_difference": self.score_difference,
        }
        fault = f"{self.wrong} of {self.boxes} boxes differ" if self.wrong else None
        if fault is None and self.boxes == 0:
            fault = "the model finds no box in any image, so nothing could be compared; lower --score-threshold"
        summary = (
            f"{self.boxes} boxes, {self.rounded} of them decided by rounding; largest difference of the others: "
            f"{self.box_difference:.1e} pixels, scores {self.score_difference:.1e}"
        )
        return Comparison(figures, summary, fault)


def _nearest(difference: np.ndarray, same: np.ndarray) -> float:
    """The largest over the rows of a row's smallest difference among its matches."""
    rows = np.where(same, difference, np.inf)[same.any(1)].min(1)
    return float(rows.max())
