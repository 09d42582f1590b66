"""Post-processing: raw network output to boxes, scores and labels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms

from backbone.errors import InputError
from det import boxes
from det.model import RawDetections

KINDS = ("softmax", "sigmoid")
NMS_IOU = 0.55
"""torchvision's threshold of suppression."""
# Suppression decides a box's fate by higher-scored boxes only, and few hundred are kept: nearly always the survivors
# are among this many best. 5 to 15 times faster than suppressing all, and the same result.
FIRST_CANDIDATES = 1024
# Up to this many coordinates torchvision's batched_nms suppresses all classes at once, shifted apart.
MAX_SHIFTED_NUMBERS = {"cpu": 4000, "cuda": 20000}


class Detections(NamedTuple):
    """Objects found in one image, best first."""

    boxes: Tensor  # [n, 4] float32, xyxy in pixels of the original image
    scores: Tensor  # [n] float32, 0 to 1
    labels: Tensor  # [n] int64, contiguous object classes from 0


class PostProcess:
    """Turn raw output into detections: scores, decoding, per-class suppression, the images' own pixels.

    Arguments:
        kind: "softmax" or "sigmoid", what makes scores of logits; "sigmoid" belongs to the focal loss.
        background: whether column 0 of the logits is the background (`model.background`); where it is not, "softmax"
            takes its logit as 0.
        score_threshold: detections score above this.
        nms_iou: of two boxes of a class that overlap more than this, the lower-scored goes.
        max_per_class: candidates per class that enter suppression, the best first.
        max_detections: detections kept per image.
        resize: "stretch" or "letterbox", how images became inputs (`model.resize`).

    Raises InputError for an unknown kind. With kind "softmax" and a background column the result is that of
    torchvision's `SSD.postprocess_detections`.
    """

    def __init__(
        self,
        kind: str = "softmax",
        background: bool = False,
        score_threshold: float = 0.001,
        nms_iou: float = NMS_IOU,
        max_per_class: int = 300,
        max_detections: int = 300,
        resize: str = "stretch",
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
            raw: class logits `[N, A, K]` and box offsets `[N, A, 4]`.
            anchors: `[A, 4]`, xyxy in pixels of the network input.
            image_size_hw: (height, width) of the network input.
            original_sizes_hw: (height, width) of each of the N images before it was resized.
        """
        scores = self._scores(raw.class_logits.float())
        offsets = raw.box_offsets.float()
        detections = []
        for image, original_hw in enumerate(original_sizes_hw):
            placement = boxes.place(original_hw, image_size_hw, self.resize)
            left, top, width, height = placement
            found = self._image(scores[image], offsets[image], anchors, placement)
            corner = torch.tensor([left, top, left, top], device=anchors.device)
            scale_x, scale_y = original_hw[1] / width, original_hw[0] / height
            scale = torch.tensor([scale_x, scale_y, scale_x, scale_y], device=anchors.device)
            found = found._replace(boxes=(found.boxes - corner) * scale)
            if self.resize == "letterbox":  # what lay wholly beside the image has no area left
                wide = (found.boxes[:, 2:] > found.boxes[:, :2]).all(dim=1)
                found = Detections(*(part[wide] for part in found))
            detections.append(found)
        return detections

    def _scores(self, logits: Tensor) -> Tensor:
        """`[N, A, K]` logits to `[N, A, objects]` scores."""
        if self.kind == "sigmoid":
            return (logits[..., 1:] if self.background else logits).sigmoid()
        return (logits if self.background else F.pad(logits, (1, 0))).softmax(dim=-1)[..., 1:]

    def _image(self, scores: Tensor, offsets: Tensor, anchors: Tensor, placement: boxes.Placement) -> Detections:
        """Detections of one image, boxes still in pixels of the network input."""
        passing = scores > self.score_threshold
        num_candidates = int(passing.sum(dim=0).clamp(max=self.max_per_class).sum())
        shift = num_candidates * 4 <= MAX_SHIFTED_NUMBERS["cpu" if scores.device.type == "cpu" else "cuda"]

        def suppressed(candidates: tuple[Tensor, Tensor, Tensor], most: int) -> Detections:
            kept_scores, anchor_index, labels = candidates
            placed = boxes.decode(offsets[anchor_index], anchors[anchor_index])
            placed = _clip(placed, placement)
            # + 1, the number that torchvision knows a class by, decides how far a class is shifted.
            kept = self._survivors(placed, kept_scores, labels + 1, shift)[:most]
            return Detections(placed[kept], kept_scores[kept], labels[kept])

        if num_candidates > FIRST_CANDIDATES:
            passing &= scores >= scores.flatten().topk(FIRST_CANDIDATES).values[-1]
            candidates = self._ranked(scores, passing)
            if candidates is not None:
                found = suppressed(candidates, self.max_detections + 1)
                # Where survivors have equal scores, torchvision's order depends on how many survive in all.
                distinct = bool((found.scores[1:] < found.scores[:-1]).all())
                if found.scores.numel() >= self.max_detections and distinct:
                    return Detections(*(part[: self.max_detections] for part in found))
            return suppressed(self._candidates(scores), self.max_detections)
        return suppressed(self._ranked(scores, passing) or self._candidates(scores), self.max_detections)

    def _ranked(self, scores: Tensor, passing: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Scores, anchors and classes of what enters suppression, class by class, best first.

        None where a class has equal scores: only `_candidates` then knows torchvision's order.
        """
        anchor_index, labels = passing.nonzero(as_tuple=True)
        values = scores[anchor_index, labels]
        order = values.argsort(descending=True)
        order = order[labels[order].argsort(stable=True)]
        values, anchor_index, labels = values[order], anchor_index[order], labels[order]
        if bool(((values[1:] == values[:-1]) & (labels[1:] == labels[:-1])).any()):
            return None
        fits = _rank_within(labels) < self.max_per_class
        return values[fits], anchor_index[fits], labels[fits]

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_ranked`, whatever the scores.

        A class's best are sorted by the very call that torchvision makes, so that equal scores come in its order.
        """
        (classes,) = (scores.amax(dim=0) > self.score_threshold).nonzero(as_tuple=True)
        parts = [(scores.new_empty(0), classes.new_empty(0), classes.new_empty(0))]
        for label in classes.tolist():
            of_class = scores[:, label]
            (passing,) = (of_class > self.score_threshold).nonzero(as_tuple=True)
            best, order = of_class[passing].topk(min(self.max_per_class, passing.numel()))
            parts.append((best, passing[order], torch.full_like(order, label)))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def _survivors(self, candidates: Tensor, scores: Tensor, classes: Tensor, shift: bool) -> Tensor:
        """Indices of the boxes, given class by class and best first, that survive suppression within their class.

        Moving the classes apart and suppressing all at once rounds coordinates, which turns the scale where an IoU is
        the threshold, as it often is between boxes near their anchors. So this does whichever torchvision does.
        """
        if shift:
            return batched_nms(candidates, scores, classes, self.nms_iou)
        if len(scores) <= 2 * FIRST_CANDIDATES:
            keep = _suppress(candidates, classes, self.nms_iou)
        else:
            keep = torch.zeros_like(scores, dtype=torch.bool)
            for number in classes.unique():
                (members,) = (classes == number).nonzero(as_tuple=True)
                keep[members[nms(candidates[members], scores[members], self.nms_iou)]] = True
        (kept,) = keep.nonzero(as_tuple=True)
        return kept[scores[kept].argsort(descending=True)]


class StaticDetections(NamedTuple):
    """Objects of a batch in a fixed number of places, best first; `valid` ones come before the others."""

    boxes: Tensor  # [N, D, 4] float32, xyxy in pixels of the network input
    scores: Tensor  # [N, D] float32, 0 where not valid
    labels: Tensor  # [N, D] int64, contiguous object classes from 0
    valid: Tensor  # [N, D] bool


class StaticPostProcess(nn.Module):
    """Post-processing whose shapes never depend on values, for export into one graph with the network.

    It gives what `PostProcess` gives, in pixels of the network input, as long as at most `max_candidates` scores pass
    and suppression settles in `rounds`: a box's fate must follow from a chain of at most so many overlapping boxes.
    Where more pass, it takes the best `max_candidates` of all classes.

    Arguments:
        anchors: `[A, 4]`, xyxy in pixels of the network input.
        image_size_hw: (height, width) of the network input.
        kind, background, score_threshold, nms_iou, max_per_class, max_detections: as `PostProcess`.
        max_candidates: boxes that are compared with each other, 1000 at most: beyond, torchvision computes otherwise.
        rounds: of suppression.

    Raises InputError for an unknown kind or more than 1000 candidates.
    """

    def __init__(
        self,
        anchors: Tensor,
        image_size_hw: tuple[int, int],
        *,
        kind: str = "softmax",
        background: bool = False,
        score_threshold: float = 0.001,
        nms_iou: float = NMS_IOU,
        max_per_class: int = 300,
        max_detections: int = 300,
        max_candidates: int = 1000,
        rounds: int = 16,
    ) -> None:
        super().__init__()
        if not 1 <= max_candidates <= MAX_SHIFTED_NUMBERS["cpu"] // 4:
            raise InputError(f"max_candidates is {max_candidates}; it must lie between 1 and 1000")
        self.process = PostProcess(kind, background, score_threshold, nms_iou, max_per_class, max_detections)
        self.max_candidates = max_candidates
        self.rounds = rounds
        self.placement = boxes.place(image_size_hw, image_size_hw, "stretch")
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, class_logits: Tensor, box_offsets: Tensor) -> StaticDetections:
        """Detections of class logits `[N, A, K]` and box offsets `[N, A, 4]`, both of one fixed shape."""
        process = self.process
        scores = process._scores(class_logits.float())
        num_candidates = min(self.max_candidates, scores.shape[1] * scores.shape[2])
        values, index = scores.flatten(1).topk(num_candidates)  # [N, C], best first
        anchor_index, labels = index // scores.shape[2], index % scores.shape[2]
        offsets = box_offsets.float().gather(1, anchor_index[..., None].expand(-1, -1, 4))
        placed = _clip(boxes.decode(offsets, self.anchors[anchor_index]), self.placement)

        same_class = labels[:, :, None] == labels[:, None, :]
        better = torch.ones_like(same_class[0]).triu(1) & same_class  # [N, C, C]: row before column, of one class
        valid = (values > process.score_threshold) & (better.sum(dim=1) < process.max_per_class)
        # Classes are moved apart by more than the furthest coordinate, which rounds as torchvision's suppression does.
        furthest = torch.where(valid[..., None], placed, 0.0).amax(dim=(1, 2))
        apart = placed + ((labels + 1) * (furthest[:, None] + 1))[..., None]
        sides = apart[..., 2:] - apart[..., :2]
        areas = sides[..., 0] * sides[..., 1]
        bottom_right = torch.minimum(apart[:, :, None, 2:], apart[:, None, :, 2:])
        common = (bottom_right - torch.maximum(apart[:, :, None, :2], apart[:, None, :, :2])).clamp(min=0)
        common = common[..., 0] * common[..., 1]
        overlap = common / (areas[:, :, None] + areas[:, None, :] - common)
        suppresses = (better & (overlap.double() > process.nms_iou)).to(values.dtype)
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


def _clip(boxes_xyxy: Tensor, placement: boxes.Placement) -> Tensor:
    """Boxes `[..., 4]` cut off at the image's edges."""
    left, top, width, height = placement
    x = boxes_xyxy[..., 0::2].clamp(left, left + width)
    y = boxes_xyxy[..., 1::2].clamp(top, top + height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def _rank_within(classes: Tensor) -> Tensor:
    """Each entry's place, from 0, among those of its class; classes come in groups."""
    place = torch.arange(len(classes), device=classes.device)
    starts = torch.ones_like(classes, dtype=torch.bool)
    starts[1:] = classes[1:] != classes[:-1]
    return place - torch.where(starts, place, 0).cummax(dim=0).values


def _suppress(candidates: Tensor, classes: Tensor, nms_iou: float) -> Tensor:
    """Which boxes `[n, 4]`, class by class and best first, survive greedy suppression: bool `[n]`.

    All pairs of a class at once, with the arithmetic of torchvision's kernel; 90 calls of that cost 2 ms where this
    takes 0.5.
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
        # A box goes if one that is kept overlaps it; from the best on this settles in few rounds.
        after = torch.ones_like(keep)
        after[later[keep[earlier]]] = False
        if torch.equal(after, keep):
            return keep
        keep = after
