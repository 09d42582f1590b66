"""Whether a file, run by its runtime, gives what the model gives in float32.

Numbers may differ by TOLERANCE of the largest. A decision that follows from them, a label or whether a box stays, may
differ only where the model's own numbers decide by less than rounding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from backbone.inference import normalise
from det.boxes import RawDetections
from det.model import Detector
from det.postprocess import StaticPostProcess
from seg.model import upsample
from tools.joint.network import JointNetwork
from tools.joint.weights import head_description

TOLERANCE = 1e-4
"""Of numbers, relative to the largest of the output; of scores, absolute."""
BOX_PIXELS = 0.1
"""By how much the sides of a box may differ."""
EDGE = 1e-5
"""A score nearer to another than this, or an overlap nearer to the threshold than ten times this, is so by rounding."""


class _Found(NamedTuple):
    """Boxes of one image, without padding."""

    boxes: Tensor  # [n, 4], xyxy in pixels
    scores: Tensor  # [n]
    labels: Tensor  # [n]


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
    tally = _Heads(model, description) if isinstance(model, JointNetwork) else _tally(model, description)
    model = model.eval()
    for images in inputs:
        rgb = images[..., ::-1] if export["channels"] == "bgr" else images
        tensor = torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            values = model(normalise(tensor, description["mean"], description["std"], channels_last=False))
            tally.add(run(images), values)
    return tally.result()


def _tally(model: nn.Module, description: Mapping[str, Any]) -> "_Numbers | _Labels | _Boxes":
    """What compares the outputs of a model with one head or none."""
    if description["export"]["output"] == "raw":
        return _Numbers(description["export"]["outputs"])
    return _Boxes(model, description) if isinstance(model, Detector) else _Labels()


class _Heads:
    """The outputs of a joint network: those of each head as of a model with that head alone."""

    def __init__(self, model: JointNetwork, description: Mapping[str, Any]) -> None:
        export = description["export"]
        self.outputs = {name: head["outputs"] for name, head in export["heads"].items()}
        self.tallies = {}
        for name, head in export["heads"].items():
            entry = {**export, **head, "outputs": list(head["outputs"])}
            self.tallies[name] = _tally(model.single(name), {**head_description(description, name), "export": entry})

    def add(self, found: dict[str, np.ndarray], values: Mapping[str, Any]) -> None:
        for name, tally in self.tallies.items():
            tally.add({own: found[named] for own, named in self.outputs[name].items()}, values[name])

    def result(self) -> Comparison:
        results = {name: tally.result() for name, tally in self.tallies.items()}
        faults = [f"{name}: {result.fault}" for name, result in results.items() if result.fault is not None]
        summary = "; ".join(f"{name}: {result.summary}" for name, result in results.items())
        return Comparison(
            {name: result.figures for name, result in results.items()}, summary, "; ".join(faults) or None
        )


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
        summary = f"{self.pixels} labels, {self.different} of them decided by rounding, all others equal"
        return Comparison(figures, summary, fault)


class _Boxes:
    """Boxes: whether they are a right choice from the model's own numbers.

    Rounding decides which of two equal boxes stays, and whether one does that overlaps another by just the threshold.
    So each box of the file must be one of the model's, none may overlap a better one of its class, and each of the
    model's that is missing must have a reason: it overlaps a better one in the file, or its score is too low. Without
    NMS no cell around may have a better score of the class, and rounding decides between equal ones.
    """

    def __init__(self, model: Detector, description: Mapping[str, Any]) -> None:
        export = description["export"]
        self.size_hw = tuple(export["size"])
        self.anchors = model.anchors_for(self.size_hw)
        self.decode = model.head.decode
        self.threshold = export["score_threshold"]
        self.nms_iou = math.inf if export["nms_iou"] is None else export["nms_iou"]
        self.process = StaticPostProcess(
            self.anchors,
            self.size_hw,
            kind=description["score"],
            background=model.background,
            score_threshold=self.threshold,
            nms_iou=export["nms_iou"],
            decode=self.decode,
        )
        self.boxes = self.rounded = self.wrong = 0
        self.box_difference = self.score_difference = 0.0

    def add(self, found: dict[str, np.ndarray], raw: RawDetections) -> None:
        chosen = self.process(*raw)
        scores = self.process.process.scores(raw.class_logits)
        boxes = self.decode(raw.box_offsets, self.anchors)
        height, width = self.size_hw
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        for image in range(len(scores)):
            parts = (torch.from_numpy(found[name][image]) for name in ("boxes", "scores", "labels"))
            in_file = _Found(*parts)
            there = in_file.scores > 0
            if not bool(torch.isfinite(in_file.boxes).all()) or bool(there[1:].gt(there[:-1]).any()):
                self.wrong += len(there)
                continue
            ours = _Found(*(part[image][chosen.valid[image]] for part in chosen[:3]))
            full = bool(there.all())
            in_file = _Found(*(part[there] for part in in_file))
            self.boxes += len(ours.scores)
            self.rounded += int((~_same(ours, in_file).any(1)).sum())
            possible = needed = scores[image]
            if self.process.map_sizes:
                around = _highest_around(scores[image], self.process.map_sizes)
                possible = torch.where(scores[image] >= around - EDGE, scores[image], 0.0)
                needed = torch.where(scores[image] > around + EDGE, scores[image], 0.0)
            self.wrong += self._unlike(in_file, boxes[image], possible)
            self.wrong += self._missing(in_file, boxes[image], needed, full)

    def _unlike(self, in_file: _Found, boxes: Tensor, scores: Tensor) -> int:
        """How many boxes of the file are none of the model's [A, 4], overlap a better one, or are out of order."""
        apart = (in_file.boxes[:, None] - boxes[None]).abs().amax(-1)  # [n, A]
        known = in_file.labels.clamp(0, scores.shape[1] - 1)
        off = (in_file.scores[:, None] - scores.T[known]).abs()  # [n, A]
        same = (apart <= BOX_PIXELS) & (off <= TOLERANCE) & (known == in_file.labels)[:, None]
        wrong = ~same.any(1)
        if bool(same.any()):
            apart, off = (value.where(same, torch.inf).amin(1)[~wrong] for value in (apart, off))
            self.box_difference = max(self.box_difference, float(apart.max()))
            self.score_difference = max(self.score_difference, float(off.max()))
        overlaps = box_iou(in_file.boxes, in_file.boxes).triu(1) > self.nms_iou + 10 * EDGE
        wrong |= (overlaps & (in_file.labels[:, None] == in_file.labels)).any(0)
        wrong[1:] |= in_file.scores[1:] > in_file.scores[:-1] + TOLERANCE
        wrong |= in_file.scores <= self.threshold - EDGE
        return int(wrong.sum())

    def _missing(self, in_file: _Found, boxes: Tensor, scores: Tensor, full: bool) -> int:
        """How many of the model's boxes the file lacks without a reason."""
        values, index = scores.flatten().topk(min(self.process.max_candidates, scores.numel()))
        least = max(self.threshold, float(values[-1]) if len(values) < scores.numel() else 0.0)
        if full:
            least = max(least, float(in_file.scores.min()))
        labels = index % scores.shape[1]
        # The last place that a box can have in its class, if all with equal scores come before it.
        before = (labels[:, None] == labels) & (values[None] > values[:, None] - EDGE)
        last_place = before.sum(1) - 1
        judged = values > least + EDGE
        index, labels, last_place = index[judged], labels[judged], last_place[judged]
        candidates = _Found(boxes[index // scores.shape[1]], scores.flatten()[index], labels)
        better = in_file.scores[None] > candidates.scores[:, None] - EDGE
        near = box_iou(candidates.boxes, in_file.boxes) > self.nms_iou - 10 * EDGE
        suppressed = near & better & (labels[:, None] == in_file.labels)
        crowded_out = last_place >= self.process.process.max_per_class
        reason = suppressed.any(1) | _same(candidates, in_file).any(1) | crowded_out
        return int((~reason).sum())

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
            f"{self.boxes} boxes, {self.rounded} of them decided by rounding; largest difference "
            f"{self.box_difference:.1e} pixels, of scores {self.score_difference:.1e}"
        )
        return Comparison(figures, summary, fault)


def _highest_around(scores: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """The best score of a class among the up to eight cells around each of the maps' cells, [A, C] -> [A, C]."""
    best = []
    for part, size in zip(scores.split([rows * columns for rows, columns in sizes]), sizes, strict=True):
        windows = functional.unfold(part.T.unflatten(1, size)[:, None], 3, padding=1)  # [C, 9, cells], 0 outside
        best.append(torch.cat([windows[:, :4], windows[:, 5:]], dim=1).amax(dim=1).T)
    return torch.cat(best)


def _same(one: _Found, other: _Found) -> Tensor:
    """Which boxes of one are which of the other, bool [n, m]."""
    apart = (one.boxes[:, None] - other.boxes[None]).abs().amax(-1)
    off = (one.scores[:, None] - other.scores[None]).abs()
    return (one.labels[:, None] == other.labels) & (apart <= BOX_PIXELS) & (off <= TOLERANCE)
