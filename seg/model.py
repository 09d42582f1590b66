"""LR-ASPP (section 6.4, figure 10): a segmentation head on two taps of a backbone."""

from torch import Tensor, nn
from torch.nn import functional as F

import backbone as backbones
from backbone import Feature, InputError
from backbone.blocks import ConvNormAct

LOW_TAPS = {
    # The official code taps the depthwise output, torchvision a block's output; both have stride 8.
    "paper": {"mobilenet_v3_large": "6.depthwise", "mobilenet_v3_small": "3.depthwise"},
    "torchvision": {"mobilenet_v3_large": "4.out", "mobilenet_v3_small": "2.out"},
}

POOLING = {
    # output stride: (kernel, stride). 16 is figure 10's, 32 the official code's flags; 8 covers the same pixels as 16.
    8: (97, (32, 40)),
    16: (49, (16, 20)),
    32: (25, (4, 5)),
}


class PaperHead(nn.Module):
    """LR-ASPP as the official code builds it: large strided pooling, gate with hard sigmoid and bias."""

    def __init__(self, low: Feature, high: Feature, *, num_classes: int, filters: int) -> None:
        super().__init__()
        self.pooling_kernel, self.pooling_stride = POOLING[high.stride]
        self.project = ConvNormAct(high.channels, filters, 1, activation=nn.ReLU, norm_eps=1e-5, norm_momentum=0.1)
        self.gate = nn.Conv2d(high.channels, filters, 1)
        self.classify_high = nn.Conv2d(filters, num_classes, 1)
        self.classify_low = nn.Conv2d(low.channels, num_classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low [N, C, H/8, W/8], high [N, C', H/16, W/16] -> logits [N, num_classes, H/8, W/8]."""
        height, width = high.shape[-2:]
        kernel = (min(self.pooling_kernel, height), min(self.pooling_kernel, width))
        gate = F.hardsigmoid(self.gate(F.avg_pool2d(high, kernel, self.pooling_stride)))  # [N, F, h, w], 1x1 if small
        gate = F.interpolate(gate, size=(height, width), mode="bilinear", align_corners=True)
        # A 1x1 convolution and bilinear resizing commute; classes are fewer than filters, so they are resized.
        logits = self.classify_high(self.project(high) * gate)
        return self.classify_low(low) + upsample(logits, low.shape[-2:])


class TorchvisionHead(nn.Module):
    """LR-ASPP as torchvision builds it: mean over the whole map, gate with sigmoid and without bias."""

    def __init__(self, low: Feature, high: Feature, *, num_classes: int, filters: int) -> None:
        super().__init__()
        self.project = ConvNormAct(high.channels, filters, 1, activation=nn.ReLU, norm_eps=1e-5, norm_momentum=0.1)
        self.gate = nn.Conv2d(high.channels, filters, 1, bias=False)
        self.classify_high = nn.Conv2d(filters, num_classes, 1)
        self.classify_low = nn.Conv2d(low.channels, num_classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low [N, C, H/8, W/8], high [N, C', H/16, W/16] -> logits [N, num_classes, H/8, W/8]."""
        gate = self.gate(high.mean((2, 3), keepdim=True)).sigmoid()  # [N, F, 1, 1]
        logits = self.classify_high(self.project(high) * gate)
        return self.classify_low(low) + upsample(logits, low.shape[-2:])


HEADS = {"paper": PaperHead, "torchvision": TorchvisionHead}


class LRASPP(nn.Module):
    """A backbone and an LR-ASPP head; make one with `create`. `stride` is that of its logits."""

    def __init__(self, network: backbones.Network, head: PaperHead | TorchvisionHead) -> None:
        super().__init__()
        self.backbone = network
        self.head = head
        low, _ = network.features.values()
        self.stride = low.stride

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] -> logits [N, num_classes, H/8, W/8]."""
        low, high = self.backbone(images).values()
        return self.head(low, high)


def create(
    head: str = "lraspp",
    *,
    backbone: str = "mobilenet_v3_large",
    num_classes: int = 19,
    variant: str = "paper",
    width: float = 1.0,
    tail: str | None = None,
    output_stride: int = 16,
    filters: int = 128,
) -> LRASPP:
    """A segmentation model: images [N, 3, H, W] -> logits [N, num_classes, H/8, W/8].

    Arguments:
        head: "lraspp".
        backbone: "mobilenet_v3_large" or "mobilenet_v3_small".
        variant: "paper", or "torchvision" with the numbers and weights of `lraspp_mobilenet_v3_large`.
        width: multiplies the backbone's channels.
        tail: the backbone's last stage; by default the variant's: "segmentation" (paper) or "full" (torchvision).
        output_stride: of the deeper tap: 8, 16 or 32.
        filters: channels inside the head (the paper's F: 128 or 256).
    Raises:
        InputError: an unknown name; the message lists the valid ones.
    """
    if head != "lraspp":
        raise InputError(f"head {head!r} unknown; valid: lraspp")
    if variant not in HEADS:
        raise InputError(f"variant {variant!r} unknown; valid: {', '.join(HEADS)}")
    if backbone not in LOW_TAPS[variant]:
        raise InputError(f"backbone {backbone!r} unknown; valid: {', '.join(LOW_TAPS[variant])}")
    for name, value in (("num_classes", num_classes), ("filters", filters)):
        if value < 1:
            raise InputError(f"{name} {value} must be at least 1")
    default_tail = {"paper": "segmentation", "torchvision": "full"}[variant]
    network = backbones.create(
        backbone,
        width=width,
        tail=tail or default_tail,
        output_stride=output_stride,
        taps=(LOW_TAPS[variant][backbone], "last"),
        dilate_strided_block=variant == "torchvision",
        # The official 0.01 presumes 100k steps and lags in short runs; the weight average smooths as well.
        norm_momentum={"paper": 0.1, "torchvision": 0.01}[variant],
    )
    low, high = network.features.values()
    return LRASPP(network, HEADS[variant](low, high, num_classes=num_classes, filters=filters))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing with half-pixel centres: [N, C, h, w] -> [N, C, H, W] for size (H, W)."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
