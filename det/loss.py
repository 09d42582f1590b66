"""The loss of SSD: matched anchors are trained on a class and a box, all others on the background."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from backbone.errors import InputError
from det import boxes
from det.boxes import RawDetections
from det.iou_losses import ciou_loss, diou_loss, giou_loss
from det.matching import Targets, in_crowd, match, without_flat
from det.options import ANCHOR_LOSSES, BOX_LOSSES

IOU_LOSSES = {
    "giou": giou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
}
MAX_SHIFT = 10.0
"""IoU losses clamp a predicted box to at most so many anchor sides from its anchor, and to 1/62 to 62 times its size.

Further out, float32 coordinates are too coarse for the box's size, and overlap and aspect ratio have no gradient."""


class DetectionLoss(nn.Module):
    """Classification plus box regression over a batch, both divided by the number of matched anchors.

    Unmatched anchors in a crowd (`det.matching.in_crowd`) are ignored; torchvision trains them as background.

    Arguments:
        kind: "softmax" is cross-entropy with hard negatives (SSD, torchvision); "focal" is the sigmoid focal loss over
            all anchors, with the box loss also divided by the four coordinates (the official SSDLite);
            "quality_focal" is the quality focal loss (arXiv 2006.04388), whose target for a matched anchor's class is
            the IoU of its predicted box.
        background: whether column 0 of the class logits is the background (`model.background`). Where it is not,
            "softmax" takes the background's logit as 0; nothing is lost, since softmax is invariant to a shift.
        box: "smooth_l1" of the offsets, or "giou", "diou" or "ciou" of the decoded boxes.
        box_weight: multiplies the box loss.
        negative_ratio: hard negatives per matched anchor, "softmax" only.
        alpha: weight of the matched class, "focal" only.
        gamma: focusing power, "focal" and "quality_focal".
        iou_threshold: IoU from which an anchor is matched.

    Raises:
        InputError: an unknown kind or box loss; the message lists the valid ones.
    """

    def __init__(
        self,
        kind: str = "softmax",
        background: bool = False,
        box: str = "smooth_l1",
        box_weight: float = 1.0,
        negative_ratio: float = 3.0,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_threshold: float = 0.5,
    ) -> None:
        super().__init__()
        if kind not in ANCHOR_LOSSES:
            raise InputError(f"loss kind {kind!r} is unknown; choose one of {', '.join(ANCHOR_LOSSES)}")
        if box not in BOX_LOSSES:
            raise InputError(f"box loss {box!r} is unknown; choose one of {', '.join(BOX_LOSSES)}")
        self.kind = kind
        self.background = background
        self.box = box
        self.box_weight = box_weight
        self.negative_ratio = negative_ratio
        self.alpha = alpha
        self.gamma = gamma
        self.iou_threshold = iou_threshold

    def forward(self, raw: RawDetections, anchors: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The loss of a batch.

        Arguments:
            raw: class logits [N, A, K] and box offsets [N, A, 4] of the model, of any float type.
            anchors: [A, 4], xyxy in pixels of the network input.
            targets: ground truth, boxes [N, G, 4] in the same pixels.

        Returns:
            "class_loss" and "box_loss", float32 scalars whose sum is the loss; finite and not negative for any batch.
        """
        logits = raw.class_logits.float()
        offsets = raw.box_offsets.float()
        matched = match(anchors, without_flat(targets), self.iou_threshold)
        positive = matched >= 0
        counted = positive | ~in_crowd(anchors, targets)
        index = matched.clamp(min=0)
        normaliser = positive.sum().clamp(min=1)

        target_boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        # Unmatched anchors get themselves as target: a padding box may be empty, and log(0) would make gradients NaN.
        target_boxes = torch.where(positive[..., None], target_boxes, anchors)
        if self.box == "smooth_l1":
            target_offsets = boxes.encode(target_boxes, anchors)
            box_losses = F.smooth_l1_loss(offsets, target_offsets, reduction="none").sum(dim=-1)
        else:
            box_losses = IOU_LOSSES[self.box](self._decoded(offsets, anchors), target_boxes)
        box_loss = self.box_weight * torch.where(positive, box_losses, 0.0).sum() / normaliser

        labels = targets.labels.gather(1, index)
        if self.kind == "softmax":
            class_loss = self._softmax(logits, labels, positive, counted)
        elif self.kind == "focal":
            class_loss = self._focal(logits, labels, positive, counted)
        else:
            quality = boxes.iou(self._decoded(offsets.detach(), anchors), target_boxes)
            class_loss = self._quality(logits, labels, positive, counted, quality)
        if self.kind == "focal" and self.box == "smooth_l1":
            box_loss = box_loss / 4
        return {"class_loss": class_loss / normaliser, "box_loss": box_loss}

    def _decoded(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Predicted boxes [N, A, 4], xyxy in the anchors' pixels, clamped as `MAX_SHIFT` says and never empty."""
        shifts = offsets[..., :2].clamp(-boxes.CENTER_WEIGHT * MAX_SHIFT, boxes.CENTER_WEIGHT * MAX_SHIFT)
        log_scales = offsets[..., 2:].clamp(min=-boxes.SIZE_WEIGHT * boxes.MAX_LOG_SCALE)
        return boxes.decode(torch.cat([shifts, log_scales], dim=-1), anchors)

    def _wanted(self, logits: Tensor, labels: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of object classes [N, A, C], and whether each belongs to its anchor's class, bool [N, A, C]."""
        if self.background:
            logits = logits[..., 1:]
        classes = torch.arange(logits.shape[-1], device=logits.device)
        return logits, (labels[..., None] == classes) & positive[..., None]

    def _focal(self, logits: Tensor, labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        """logits [N, A, K]; labels, positive, counted [N, A] -> the sum of the losses, a scalar."""
        logits, wanted = self._wanted(logits, labels, positive)
        losses = sigmoid_focal_loss(logits, wanted.to(logits.dtype), self.alpha, self.gamma)
        return torch.where(counted[..., None], losses, 0.0).sum()

    def _quality(self, logits: Tensor, labels: Tensor, positive: Tensor, counted: Tensor, quality: Tensor) -> Tensor:
        """As `_focal`; quality [N, A] is the IoU of every predicted box with its target."""
        logits, wanted = self._wanted(logits, labels, positive)
        score = torch.where(wanted, quality[..., None], 0.0)
        losses = F.binary_cross_entropy_with_logits(logits, score, reduction="none")
        losses = losses * (score - logits.sigmoid()).abs() ** self.gamma
        return torch.where(counted[..., None], losses, 0.0).sum()

    def _softmax(self, logits: Tensor, labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        """As `_focal`."""
        if not self.background:
            logits = F.pad(logits, (1, 0))
        wanted = torch.where(positive, labels + 1, 0)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        # Matched and ignored anchors get loss 0 among the negatives, so that they add nothing where an image has fewer
        # negatives than are asked for (torchvision counts matched anchors twice there).
        negatives = torch.where(positive | ~counted, 0.0, losses).sort(dim=1, descending=True).values
        rank = torch.arange(negatives.shape[1], device=negatives.device)
        hard = rank < self.negative_ratio * positive.sum(dim=1, keepdim=True)
        return torch.where(positive, losses, 0.0).sum() + torch.where(hard, negatives, 0.0).sum()
