"""What a segmenter learns from another one's logits: knowledge distillation, pixel by pixel."""

import torch
from torch import Tensor
from torch.nn import functional as F

from seg.data.dataset import IGNORE
from seg.resizing import resize


def distill_loss(logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """How far a student's distribution over the classes is from its teacher's (arXiv 1503.02531), the mean over pixels.

    The Kullback-Leibler divergence of the two softmaxes, both softened by the temperature, whose square keeps the
    gradients as large as without it. It is taken at the student's stride, to which the teacher's logits are resized;
    a place counts by the share of its pixels that are not ignored.

    Arguments:
        logits: of the student, [N, C, h, w].
        teacher_logits: of the same images and classes, at any stride, [N, C, h', w'].
        labels: [N, H, W], of which only the ignored pixels (255) matter.
        temperature: 1 compares the distributions as they are; higher ones weigh what the teacher holds improbable more.

    Returns:
        A float32 scalar, not negative; 0 where every pixel is ignored.
    """
    height, width = logits.shape[-2:]
    with torch.no_grad():
        wanted = (resize(teacher_logits.float(), (height, width)) / temperature).log_softmax(dim=1)
        counted = F.adaptive_avg_pool2d((labels != IGNORE).float()[:, None], (height, width))[:, 0]  # [N, h, w]
        total = counted.sum()
        total = torch.where(total > 0, total, torch.ones_like(total))
    found = (logits.float() / temperature).log_softmax(dim=1)
    divergence = F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (divergence * counted).sum() / total
