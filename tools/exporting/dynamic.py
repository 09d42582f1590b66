"""What replaces the parts of a model whose arithmetic on sizes is Python's, so that a graph holds for every size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg.heads.lraspp import LRASPPHead
from seg.resizing import resize


class DynamicLRASPPHead(nn.Module):
    """An LR-ASPP head with windows that are cut to the map's size, as `LRASPPHead`, in operators of fixed kernels.

    A map smaller than the window is filled up with zeros: the sum over the window is then that over the map, and only
    the count to divide it by is another.

    Arguments:
        head: its layers are taken over; its `window` is not None.
    """

    def __init__(self, head: LRASPPHead) -> None:
        super().__init__()
        assert head.window is not None  # a global mean holds for every size already
        self.head = head
        self.size, self.window_stride = head.window
        self.stride, self.multiple, self.least = head.stride, head.multiple, head.least

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low [N, C, H/8, W/8], high [N, C', H/s, W/s] -> logits [N, num_classes, H/8, W/8]."""
        head, size = self.head, self.size
        height, width = high.shape[-2:]
        lacking = torch.sym_max(size - width, 0), torch.sym_max(size - height, 0)
        filled = F.pad(high, (0, lacking[0], 0, lacking[1]))
        sums = F.avg_pool2d(filled, size, self.window_stride, divisor_override=1)
        pooled = sums / (torch.sym_min(size, height) * torch.sym_min(size, width))
        gate = resize(head.squash(head.gate(pooled)), (height, width), align_corners=True)
        logits = head.classify_high(head.project(high) * gate)
        return head.classify_low(low) + resize(logits, low.shape[-2:], align_corners=head.align_corners)
