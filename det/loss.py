"""The loss of SSD: matched anchors learn a class and a box, the others learn background."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from backbone.errors import InputError
from det import boxes
from det.matching import Targets, in_crowd, match
from det.model import RawDetections

KINDS = ("softmax", "focal")


class SSDLoss(nn.Module):
    """Classification plus box regression over a batch, both divided by the number of matched anchors.

    Unmatched anchors in a crowd (`det.matching.in_crowd`) learn nothing; torchvision makes them background.

    Arguments:
        kind: "softmax" is cross-entropy with hard negatives (SSD, torchvision); "focal" is the sigmoid focal loss over
            all anchors, with the box loss also divided by the four coordinates (the official SSDLite).
        background: whether column 0 of the class logits is the background (`model.background`). Where it is not,
            "softmax" takes the background's logit as 0, which loses nothing since softmax ignores a shift.
        negative_ratio: hard negatives per matched anchor, "softmax" only.
        alpha, gamma: weight of the matched class and focusing power, "focal" only.
        iou_threshold: overlap from which an anchor is matched.

    Raises InputError for an unknown kind.
    """

    def __init__(
        self,
        kind: str = "softmax",
        background: bool = False,
        negative_ratio: float = 3.0,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_threshold: float = 0.5,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"loss kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
        self.kind = kind
        self.background = background
        self.negative_ratio = negative_ratio
        self.alpha = alpha
        self.gamma = gamma
        self.iou_threshold = iou_threshold

    def forward(self, raw: RawDetections, anchors: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Losses "class_loss" and "box_loss", float32 scalars whose sum is the loss; 0 or more for any batch.

        Arguments:
            raw: class logits `[N, A, K]` and box offsets `[N, A, 4]` of the model, any float type.
            anchors: `[A, 4]`, xyxy in pixels of the network input.
            targets: padded ground truth in the same pixels.
        """
        logits = raw.class_logits.float()
        offsets = raw.box_offsets.float()
        matched = match(anchors, targets, self.iou_threshold)
        positive = matched >= 0
        counted = positive | ~in_crowd(anchors, targets)
        index = matched.clamp(min=0)
        normaliser = positive.sum().clamp(min=1)

        target_boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        # Background anchors get themselves as target: padding may have no size, whose logarithm would spoil gradients.
        target_offsets = boxes.encode(torch.where(positive[..., None], target_boxes, anchors), anchors)
        box_losses = F.smooth_l1_loss(offsets, target_offsets, reduction="none").sum(dim=-1)
        box_loss = torch.where(positive, box_losses, 0.0).sum() / normaliser

        labels = targets.labels.gather(1, index)
        if self.kind == "focal":
            class_loss = self._focal(logits, labels, positive, counted)
            box_loss = box_loss / 4
        else:
            class_loss = self._softmax(logits, labels, positive, counted)
        return {"class_loss": class_loss / normaliser, "box_loss": box_loss}

    def _focal(self, logits: Tensor, labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        if self.background:
            logits = logits[..., 1:]
        classes = torch.arange(logits.shape[-1], device=logits.device)
        wanted = (labels[..., None] == classes) & positive[..., None]
        losses = sigmoid_focal_loss(logits, wanted.to(logits.dtype), self.alpha, self.gamma)
        return torch.where(counted[..., None], losses, 0.0).sum()

    def _softmax(self, logits: Tensor, labels: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
        if not self.background:
            logits = F.pad(logits, (1, 0))
        wanted = torch.where(positive, labels + 1, 0)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
        # Matched anchors count as negatives of loss 0, so that they can never be drawn a second time when a picture
        # has fewer negatives than asked for (torchvision draws them twice then). So do those in crowds.
        negatives = torch.where(positive | ~counted, 0.0, losses).sort(dim=1, descending=True).values
        rank = torch.arange(negatives.shape[1], device=negatives.device)
        hard = rank < self.negative_ratio * positive.sum(dim=1, keepdim=True)
        return torch.where(positive, losses, 0.0).sum() + torch.where(hard, negatives, 0.0).sum()
