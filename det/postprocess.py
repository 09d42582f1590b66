"""Post-processing: from the network's raw output to boxes, scores and labels."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms

from backbone.errors import InputError
from det import boxes
from det.boxes import RawDetections

KINDS = ("softmax", "sigmoid")
NMS_IOU = 0.55
"""torchvision's IoU threshold of non-maximum suppression (NMS)."""
SCORE_THRESHOLD = 0.001
"""torchvision's threshold of scores in evaluations: low, so that every use can raise it."""
# Only higher-scored boxes can suppress a box, and a few hundred are kept: the survivors are nearly always among this
# many candidates. 5 to 15 times faster than suppressing among all, with the same result.
FIRST_CANDIDATES = 1024
# Up to this many coordinates torchvision's batched_nms suppresses all classes in one call, offset from each other.
MAX_SHIFTED_NUMBERS = {"cpu": 4000, "cuda": 20000}
Decode = Callable[[Tensor, Tensor], Tensor]
"""Box offsets [..., 4] and anchors [..., 4] -> boxes [..., 4], xyxy in pixels; a head's `decode`."""


class Detections(NamedTuple):
    """Objects found in one image, best first."""

    boxes: Tensor  # [n, 4] float32, xyxy in pixels of the original image
    scores: Tensor  # [n] float32, 0 to 1
    labels: Tensor  # [n] int64, contiguous object classes from 0


class PostProcess:
    """Turns raw output into detections: scores, box decoding, NMS per class, the original images' pixels.

    With kind "softmax" and a background column the result is that of torchvision's `SSD.postprocess_detections`.

    Arguments:
        kind: how logits become scores: "softmax", or "sigmoid" for models trained with a focal loss.
        background: whether column 0 of the logits is the background (`model.background`); where it is not, "softmax"
            takes its logit as 0.
        score_threshold: only detections with higher scores are kept, 0 to 1.
        nms_iou: of two boxes of a class with a larger IoU, the lower-scored is suppressed; with None, for the
            cells of pico heads, boxes are not compared: the best of the scores that no neighboring cell exceeds
            (`peaks`) are the detections.
        max_per_class: candidates per class that enter NMS, the best first.
        max_detections: detections kept per image.
        resize: how images became inputs, "stretch" or "letterbox" (`model.resize`).
        decode: the head's (`model.head.decode`).

    Raises:
        InputError: an unknown kind; the message lists the valid ones.
    """

    def __init__(
        self,
        kind: str = "softmax",
        background: bool = False,
        score_threshold: float = SCORE_THRESHOLD,
        nms_iou: float | None = NMS_IOU,
        max_per_class: int = 300,
        max_detections: int = 300,
        resize: str = "stretch",
        decode: Decode = boxes.decode,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"score kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
        self.kind = kind
        self.background = background
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_per_class = max_per_class
        self.max_detections = max_detections
        self.resize = resize
        self.decode = decode

    @torch.inference_mode()
    def __call__(
        self,
        raw: RawDetections,
        anchors: Tensor,
        image_size_hw: tuple[int, int],
        original_sizes_hw: Sequence[Sequence[int]],
    ) -> list[Detections]:
        """Detections of each image of a batch.

        Arguments:
            raw: class logits [N, A, K] and box offsets [N, A, 4], of any float type.
            anchors: [A, 4], xyxy in pixels of the network input.
            image_size_hw: (height, width) of the network input in pixels.
            original_sizes_hw: (height, width) in pixels of each of the N images before it was resized.
        """
        scores = self.scores(raw.class_logits.float())
        if self.nms_iou is None:
            scores = peaks(scores, map_sizes(anchors))
        offsets = raw.box_offsets.float()
        detections = []
        for image, original_hw in enumerate(original_sizes_hw):
            placement = boxes.place(original_hw, image_size_hw, self.resize)
            found = self._image(scores[image], offsets[image], anchors, placement)
            detections.append(self._in_image(found, placement, original_hw))
        return detections

    def unpad(
        self, padded: "StaticDetections", image_size_hw: tuple[int, int], original_sizes_hw: Sequence[Sequence[int]]
    ) -> list[Detections]:
        """As a call, from what `StaticPostProcess` gives for a batch with a score threshold that is not higher."""
        detections = []
        for image, original_hw in enumerate(original_sizes_hw):
            kept = padded.valid[image] & (padded.scores[image] > self.score_threshold)
            found = Detections(padded.boxes[image][kept], padded.scores[image][kept], padded.labels[image][kept])
            placement = boxes.place(original_hw, image_size_hw, self.resize)
            found = found._replace(boxes=_clip(found.boxes, placement))  # the graph knows no letterbox
            detections.append(self._in_image(found, placement, original_hw))
        return detections

    def _in_image(self, found: Detections, placement: boxes.Placement, original_hw: Sequence[int]) -> Detections:
        """Detections with boxes in pixels of the network input, as those in pixels of the original image."""
        left, top, width, height = placement
        corner = torch.tensor([left, top, left, top], device=found.boxes.device)
        scale_x, scale_y = original_hw[1] / width, original_hw[0] / height
        scale = torch.tensor([scale_x, scale_y, scale_x, scale_y], device=found.boxes.device)
        found = found._replace(boxes=(found.boxes - corner) * scale)
        if self.resize == "letterbox":  # boxes wholly outside the image have been clipped to nothing
            wide = (found.boxes[:, 2:] > found.boxes[:, :2]).all(dim=1)
            found = Detections(*(part[wide] for part in found))
        return found

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [N, A, K] -> scores of the object classes [N, A, C], 0 to 1."""
        if self.kind == "sigmoid":
            return (logits[..., 1:] if self.background else logits).sigmoid()
        return (logits if self.background else F.pad(logits, (1, 0))).softmax(dim=-1)[..., 1:]

    def _image(self, scores: Tensor, offsets: Tensor, anchors: Tensor, placement: boxes.Placement) -> Detections:
        """Detections of one image, with boxes in pixels of the network input.

        scores [A, C], offsets [A, 4], anchors [A, 4].
        """
        if self.nms_iou is None:
            values, index = scores.flatten().topk(min(self.max_detections, scores.numel()))
            anchor_index, labels = index // scores.shape[1], index % scores.shape[1]
            placed = _clip(self.decode(offsets[anchor_index], anchors[anchor_index]), placement)
            passing = values > self.score_threshold
            return Detections(placed[passing], values[passing], labels[passing])
        nms_iou = self.nms_iou
        passing = scores > self.score_threshold
        num_candidates = int(passing.count_nonzero())
        if num_candidates > self.max_per_class:  # else no class has more
            num_candidates = int(passing.sum(dim=0).clamp(max=self.max_per_class).sum())
        shift = num_candidates * 4 <= MAX_SHIFTED_NUMBERS["cpu" if scores.device.type == "cpu" else "cuda"]

        def suppressed(candidates: tuple[Tensor, Tensor, Tensor], most: int) -> Detections:
            kept_scores, anchor_index, labels = candidates
            placed = self.decode(offsets[anchor_index], anchors[anchor_index])
            placed = _clip(placed, placement)
            # torchvision shifts each class by its number, which counts the background: labels + 1.
            kept = _survivors(placed, kept_scores, labels + 1, nms_iou, shift)[:most]
            return Detections(placed[kept], kept_scores[kept], labels[kept])

        if num_candidates > FIRST_CANDIDATES:
            least = _nth_best(scores, FIRST_CANDIDATES)
            passing &= scores >= least
            everyone = None
            candidates = self._ranked(scores, passing)
            if candidates is None:  # equal scores: the best of all that torchvision takes, in its order
                everyone = self._candidates(scores)
                best = everyone[0] >= least
                candidates = everyone[0][best], everyone[1][best], everyone[2][best]
            found = suppressed(candidates, self.max_detections + 1)
            # torchvision's order of survivors with equal scores depends on the number of all survivors.
            distinct = bool((found.scores[1:] < found.scores[:-1]).all())
            if found.scores.numel() >= self.max_detections and distinct:
                return Detections(*(part[: self.max_detections] for part in found))
            return suppressed(everyone or self._candidates(scores), self.max_detections)
        return suppressed(self._ranked(scores, passing) or self._candidates(scores), self.max_detections)

    def _ranked(self, scores: Tensor, passing: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """The candidates for NMS, class by class and best first: scores, anchor indices and labels, each [n].

        None if a class has equal scores, whose order in torchvision only `_candidates` reproduces.
        """
        place = _nonzero(passing.flatten())
        anchor_index, labels = place // passing.shape[1], place % passing.shape[1]
        values = scores[anchor_index, labels]
        order = values.argsort(descending=True)
        order = order[labels[order].argsort(stable=True)]
        values, anchor_index, labels = values[order], anchor_index[order], labels[order]
        if bool(((values[1:] == values[:-1]) & (labels[1:] == labels[:-1])).any()):
            return None
        fits = _rank_within(labels) < self.max_per_class
        return values[fits], anchor_index[fits], labels[fits]

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_ranked`, for any scores; slower.

        Each class is sorted by the same call as in torchvision, so that equal scores come in its order.
        """
        (classes,) = (scores.amax(dim=0) > self.score_threshold).nonzero(as_tuple=True)
        parts = [(scores.new_empty(0), classes.new_empty(0), classes.new_empty(0))]
        for label in classes.tolist():
            of_class = scores[:, label]
            (passing,) = (of_class > self.score_threshold).nonzero(as_tuple=True)
            best, order = of_class[passing].topk(min(self.max_per_class, passing.numel()))
            parts.append((best, passing[order], torch.full_like(order, label)))
        values, anchor_index, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return values, anchor_index, labels


class StaticDetections(NamedTuple):
    """Objects found in a batch, padded to a fixed number D, best first; padding comes last."""

    boxes: Tensor  # [N, D, 4] float32, xyxy in pixels of the network input
    scores: Tensor  # [N, D] float32, 0 for padding
    labels: Tensor  # [N, D] int64, contiguous object classes from 0
    valid: Tensor  # [N, D] bool, False for padding


class StaticPostProcess(nn.Module):
    """Post-processing whose shapes never depend on values, for export into one graph with the network.

    It gives what `PostProcess` gives, in pixels of the network input, as long as at most `max_candidates` scores pass
    the threshold and no chain of boxes, each of which decides over the next, is longer than `rounds`. Where more pass,
    the best `max_candidates` of all classes are taken. Without NMS there is no such limit.

    Arguments:
        anchors: [A, 4], xyxy in pixels of the network input.
        image_size_hw: (height, width) of the network input in pixels.
        kind, background, score_threshold, nms_iou, max_per_class, max_detections, decode: as `PostProcess`.
        max_candidates: boxes that enter NMS, at most 1000: for more, torchvision computes in another way.
        rounds: iterations of NMS.

    Raises:
        InputError: an unknown kind, or `max_candidates` out of range.
    """

    anchors: Tensor

    def __init__(
        self,
        anchors: Tensor,
        image_size_hw: tuple[int, int],
        *,
        kind: str = "softmax",
        background: bool = False,
        score_threshold: float = SCORE_THRESHOLD,
        nms_iou: float | None = NMS_IOU,
        max_per_class: int = 300,
        max_detections: int = 300,
        max_candidates: int = 1000,
        rounds: int = 16,
        decode: Decode = boxes.decode,
    ) -> None:
        super().__init__()
        if not 1 <= max_candidates <= MAX_SHIFTED_NUMBERS["cpu"] // 4:
            raise InputError(f"max_candidates is {max_candidates}; it must lie between 1 and 1000")
        self.process = PostProcess(
            kind, background, score_threshold, nms_iou, max_per_class, max_detections, decode=decode
        )
        self.max_candidates = max_candidates
        self.rounds = rounds
        self.most_overlap = None if nms_iou is None else _not_above(nms_iou)
        self.map_sizes = map_sizes(anchors) if nms_iou is None else []
        self.placement = boxes.place(image_size_hw, image_size_hw, "stretch")
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, class_logits: Tensor, box_offsets: Tensor) -> StaticDetections:
        """Detections from class logits [N, A, K] and box offsets [N, A, 4]."""
        process = self.process
        scores = process.scores(class_logits.float())
        if self.most_overlap is None:
            scores = peaks(scores, self.map_sizes)
        num_candidates = self.max_candidates if self.most_overlap is not None else process.max_detections
        num_candidates = min(num_candidates, scores.shape[1] * scores.shape[2])
        values, index = scores.flatten(1).topk(num_candidates)  # [N, C], best first
        anchor_index, labels = index // scores.shape[2], index % scores.shape[2]
        offsets = box_offsets.float().gather(1, anchor_index[..., None].expand(-1, -1, box_offsets.shape[2]))
        placed = _clip(process.decode(offsets, self.anchors[anchor_index]), self.placement)
        if self.most_overlap is None:
            valid = values > process.score_threshold
            return StaticDetections(placed, torch.where(valid, values, 0.0), labels, valid)

        same_class = labels[:, :, None] == labels[:, None, :]
        better = torch.ones_like(same_class[0]).triu(1) & same_class  # [N, C, C]: the row's box outranks the column's
        valid = (values > process.score_threshold) & (better.sum(dim=1) < process.max_per_class)
        # Classes are shifted apart by more than the largest coordinate, with the rounding of torchvision's batched_nms.
        furthest = torch.where(valid[..., None], placed, 0.0).amax(dim=(1, 2))
        apart = placed + ((labels + 1) * (furthest[:, None] + 1))[..., None]
        sides = apart[..., 2:] - apart[..., :2]
        areas = sides[..., 0] * sides[..., 1]
        bottom_right = torch.minimum(apart[:, :, None, 2:], apart[:, None, :, 2:])
        common = (bottom_right - torch.maximum(apart[:, :, None, :2], apart[:, None, :, :2])).clamp(min=0)
        common = common[..., 0] * common[..., 1]
        overlap = common / (areas[:, :, None] + areas[:, None, :] - common)
        suppresses = (better & (overlap > self.most_overlap)).to(values.dtype)
        keep = valid
        for _ in range(self.rounds):
            keep = valid & ((keep.to(values.dtype)[:, None] @ suppresses)[:, 0] == 0)

        kept, order = torch.where(keep, values, -1.0).topk(min(process.max_detections, num_candidates))
        return StaticDetections(
            placed.gather(1, order[..., None].expand(-1, -1, 4)),
            kept.clamp(min=0),
            labels.gather(1, order),
            kept >= 0,
        )


def map_sizes(cells: Tensor) -> list[tuple[int, int]]:
    """Rows and columns of the maps whose square cells [A, 4], xyxy, come map by map and row by row."""
    _, counts = (cells[:, 2] - cells[:, 0]).unique_consecutive(return_counts=True)
    sizes = []
    for cells_of_map in cells.split(counts.tolist()):
        rows = int((cells_of_map[:, 0] == cells_of_map[0, 0]).sum())
        sizes.append((rows, len(cells_of_map) // rows))
    return sizes


def peaks(scores: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Scores [N, A, C] of cells, and 0 where one of the eight cells around has a higher score of the class.

    Of the boxes that adjacent cells give one object the best stays, as CenterNet's heat maps are read (arXiv
    1904.07850). `sizes` are the maps' rows and columns, as `map_sizes` gives.
    """
    kept = []
    for part, size in zip(scores.split([rows * columns for rows, columns in sizes], dim=1), sizes, strict=True):
        grid = part.transpose(1, 2).unflatten(2, size)  # [N, C, rows, columns]
        highest = F.max_pool2d(grid, 3, stride=1, padding=1)
        kept.append(torch.where(grid >= highest, grid, 0.0).flatten(2).transpose(1, 2))
    return torch.cat(kept, dim=1)


def _not_above(value: float) -> float:
    """The largest float32 that is not above a number.

    A float32 exceeds one exactly where it exceeds the other: torchvision's comparison in float64, without the float64
    that runtimes on devices lack.
    """
    nearest = torch.tensor(value, dtype=torch.float32)
    return (nearest if nearest.item() <= value else nearest.nextafter(torch.tensor(-math.inf))).item()


def _clip(boxes_xyxy: Tensor, placement: boxes.Placement) -> Tensor:
    """Boxes [..., 4] clipped to the image's part of the network input."""
    left, top, width, height = placement
    x = boxes_xyxy[..., 0::2].clamp(left, left + width)
    y = boxes_xyxy[..., 1::2].clamp(top, top + height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def _nth_best(scores: Tensor, count: int) -> Tensor:
    """The value that `count` of the scores [A, C] reach, at least one of them exactly; faster than a topk of all."""
    best = scores.amax(dim=1)
    if len(best) < count:
        return scores.flatten().topk(count).values[-1]
    bound = best.topk(count).values[-1]  # as many anchors reach it, so the value is not below
    reaching = _nonzero((scores >= bound).flatten())
    return scores[reaching // scores.shape[1], reaching % scores.shape[1]].topk(count).values[-1]


def _nonzero(mask: Tensor) -> Tensor:
    """The indices of the true values of a mask [n], ascending; on a CPU by NumPy, which takes a tenth of the time."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


def _rank_within(classes: Tensor) -> Tensor:
    """The rank of each entry within its class, from 0: int64 [n]; `classes` [n] is sorted into groups."""
    place = torch.arange(len(classes), device=classes.device)
    starts = torch.ones_like(classes, dtype=torch.bool)
    starts[1:] = classes[1:] != classes[:-1]
    return place - torch.where(starts, place, 0).cummax(dim=0).values


def _survivors(candidates: Tensor, scores: Tensor, classes: Tensor, nms_iou: float, shift: bool) -> Tensor:
    """Indices of the boxes that survive NMS within their class, best first.

    Shifting the classes apart to suppress all in one call rounds coordinates, which decides where an IoU equals the
    threshold, as is common between boxes near their anchors. So classes are shifted exactly when torchvision does.

    Arguments:
        candidates: [n, 4], class by class and best first; with their scores [n] and classes [n].
        shift: whether torchvision shifts the classes apart.
    """
    if shift:
        return batched_nms(candidates, scores, classes, nms_iou)
    if len(scores) <= 2 * FIRST_CANDIDATES:
        keep = _suppress(candidates, classes, nms_iou)
    else:
        keep = torch.zeros_like(scores, dtype=torch.bool)
        for number in classes.unique():
            (members,) = (classes == number).nonzero(as_tuple=True)
            keep[members[nms(candidates[members], scores[members], nms_iou)]] = True
    (kept,) = keep.nonzero(as_tuple=True)
    return kept[scores[kept].argsort(descending=True)]


def _suppress(candidates: Tensor, classes: Tensor, nms_iou: float) -> Tensor:
    """Which boxes [n, 4], given class by class and best first, survive greedy NMS: bool [n].

    It compares all pairs of each class at once, with the arithmetic of torchvision's kernel. With 90 classes this takes
    0.5 ms, calling the kernel for each class 2 ms.
    """
    rank = _rank_within(classes)
    place = torch.arange(len(classes), device=classes.device)
    later = place.repeat_interleave(rank)
    first_pair = (rank.cumsum(dim=0) - rank).repeat_interleave(rank)
    earlier = later - 1 - (torch.arange(len(later), device=classes.device) - first_pair)
    sides = candidates[:, 2:] - candidates[:, :2]
    areas = sides[:, 0] * sides[:, 1]
    one, other = candidates[earlier], candidates[later]
    common = (torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])).clamp(min=0)
    common = common[:, 0] * common[:, 1]
    # The kernel compares the float32 quotient with a float64 threshold.
    overlaps = (common / (areas[earlier] + areas[later] - common)).double() > nms_iou
    earlier, later = earlier[overlaps], later[overlaps]
    keep = torch.ones_like(classes, dtype=torch.bool)
    while True:
        # A box is suppressed by any kept box that overlaps it; starting from all kept, this converges in a few rounds.
        after = torch.ones_like(keep)
        after[later[keep[earlier]]] = False
        if torch.equal(after, keep):
            return keep
        keep = after
