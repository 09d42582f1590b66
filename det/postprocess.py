"""Post-processing: raw network output to boxes, scores and labels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image

from backbone.errors import InputError
from det import boxes
from det.model import RawDetections

KINDS = ("softmax", "sigmoid")
# Suppression decides a box's fate by higher-scored boxes only, and few hundred are kept: nearly always the survivors
# are among this many best. 5 to 15 times faster than suppressing all, and the same result.
FIRST_CANDIDATES = 1024


class Detections(NamedTuple):
    """Objects found in one picture, best first."""

    boxes: Tensor  # [n, 4] float32, xyxy in pixels of the original picture
    scores: Tensor  # [n] float32, 0 to 1
    labels: Tensor  # [n] int64, contiguous object classes from 0


class PostProcess:
    """Turn raw output into detections: scores, decoding, per-class suppression, the pictures' own pixels.

    Arguments:
        kind: "softmax" or "sigmoid", what makes scores of logits; "sigmoid" belongs to the focal loss.
        background: whether column 0 of the logits is the background (`model.background`); where it is not, "softmax"
            takes its logit as 0.
        score_threshold: detections score above this.
        nms_iou: of two boxes of a class that overlap more than this, the lower-scored goes.
        max_per_class: candidates per class that enter suppression, the best first.
        max_detections: detections kept per picture.

    Raises InputError for an unknown kind. With kind "softmax" and a background column the result is that of
    torchvision's `SSD.postprocess_detections`.
    """

    def __init__(
        self,
        kind: str = "softmax",
        background: bool = False,
        score_threshold: float = 0.001,
        nms_iou: float = 0.55,
        max_per_class: int = 300,
        max_detections: int = 300,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"score kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
        self.kind = kind
        self.background = background
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_per_class = max_per_class
        self.max_detections = max_detections

    @torch.inference_mode()
    def __call__(
        self,
        raw: RawDetections,
        anchors: Tensor,
        image_size_hw: tuple[int, int],
        original_sizes_hw: Sequence[Sequence[int]],
    ) -> list[Detections]:
        """Detections of each picture of a batch.

        Arguments:
            raw: class logits `[N, A, K]` and box offsets `[N, A, 4]`.
            anchors: `[A, 4]`, xyxy in pixels of the network input.
            image_size_hw: (height, width) of the network input.
            original_sizes_hw: (height, width) of each of the N pictures before it was resized.
        """
        scores = self._scores(raw.class_logits.float())
        offsets = raw.box_offsets.float()
        detections = []
        for picture, original_hw in enumerate(original_sizes_hw):
            found = self._picture(scores[picture], offsets[picture], anchors, image_size_hw)
            scale_y, scale_x = (old / new for old, new in zip(original_hw, image_size_hw, strict=True))
            scale = torch.tensor([scale_x, scale_y, scale_x, scale_y], device=anchors.device)
            detections.append(found._replace(boxes=found.boxes * scale))
        return detections

    def _scores(self, logits: Tensor) -> Tensor:
        """`[N, A, K]` logits to `[N, A, objects]` scores."""
        if self.kind == "sigmoid":
            return (logits[..., 1:] if self.background else logits).sigmoid()
        return (logits if self.background else F.pad(logits, (1, 0))).softmax(dim=-1)[..., 1:]

    def _picture(self, scores: Tensor, offsets: Tensor, anchors: Tensor, image_size_hw: tuple[int, int]) -> Detections:
        """Detections of one picture, boxes still in pixels of the network input."""
        num_classes = scores.shape[1]
        flat = scores.flatten()
        best_scores, best = flat.topk(min(FIRST_CANDIDATES, flat.numel()))
        passing = best_scores > self.score_threshold
        best_scores, best = best_scores[passing], best[passing]
        within_class = best % num_classes
        if best.numel() > self.max_per_class:
            one_hot = within_class[:, None] == torch.arange(num_classes, device=flat.device)
            rank = one_hot.cumsum(dim=0).gather(1, within_class[:, None])[:, 0]
            allowed = rank <= self.max_per_class
            best_scores, best, within_class = best_scores[allowed], best[allowed], within_class[allowed]
        found = self._suppress(best_scores, best // num_classes, within_class, offsets, anchors, image_size_hw)
        all_seen = bool(passing.numel() == flat.numel() or not passing[-1])
        if all_seen or found.scores.numel() >= self.max_detections:
            return found

        # Too few of the best survived, and there are more: every class's own best instead.
        per_class, anchor_index = scores.t().topk(min(self.max_per_class, scores.shape[0]), dim=1)
        labels = torch.arange(num_classes, device=flat.device)[:, None].expand_as(per_class)
        passing = per_class > self.score_threshold
        return self._suppress(
            per_class[passing], anchor_index[passing], labels[passing], offsets, anchors, image_size_hw
        )

    def _suppress(
        self,
        scores: Tensor,
        anchor_index: Tensor,
        labels: Tensor,
        offsets: Tensor,
        anchors: Tensor,
        image_size_hw: tuple[int, int],
    ) -> Detections:
        candidates = boxes.decode(offsets[anchor_index], anchors[anchor_index])
        candidates = clip_boxes_to_image(candidates, image_size_hw)
        # batched_nms moves classes apart by their number: + 1 moves them as torchvision does, to the last rounding.
        kept = batched_nms(candidates, scores, labels + 1, self.nms_iou)[: self.max_detections]
        return Detections(candidates[kept], scores[kept], labels[kept])
