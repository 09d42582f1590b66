"""The convolutional body of a MobileNetV3 whose named values can be tapped, and the classifier on top of it."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from backbone.architectures import ARCHITECTURES, round_channels, with_tail
from backbone.blocks import POINTS, Bottleneck, ConvNormAct
from backbone.errors import InputError

ACTIVATIONS = {"RE": nn.ReLU, "HS": nn.Hardswish}


class Feature(NamedTuple):
    """What a tap gives: its channels, and its stride relative to the input."""

    channels: int
    stride: int


class Network(nn.Module):
    """A body that returns the values at its taps; make one with `create`.

    `features` declares each tap's channels and stride; `all_features` those of every tap the architecture has.
    """

    def __init__(
        self,
        architecture: str,
        *,
        width: float,
        tail: str,
        output_stride: int,
        in_channels: int,
        taps: tuple[str, ...],
        dilate_strided_block: bool,
        norm_eps: float,
        norm_momentum: float,
    ) -> None:
        super().__init__()
        table = ARCHITECTURES[architecture]
        self.architecture = architecture
        self.rows = with_tail(table, tail)
        norm = {"norm_eps": norm_eps, "norm_momentum": norm_momentum}

        channels = round_channels(table.stem * width)
        self.all_features = {"stem": Feature(channels, 2)}
        plans = []  # the arguments of each bottleneck
        stride, dilation = 2, 1
        for number, row in enumerate(self.rows, start=1):
            step, block_dilation = row.stride, dilation
            if stride * step > output_stride:
                dilation *= step
                step = 1
                # The equivalent of the strided network dilates only what follows; torchvision dilates this block too.
                block_dilation = dilation if dilate_strided_block else block_dilation
            expanded, out = round_channels(row.expanded * width), round_channels(row.out * width)
            plans.append(
                {
                    "in_channels": channels,
                    "expanded": expanded,
                    "out_channels": out,
                    "kernel_size": row.kernel,
                    "stride": step,
                    "dilation": block_dilation,
                    "squeezed": round_channels(expanded // 4) if row.squeeze_excite else None,
                    "activation": ACTIVATIONS[row.nonlinearity],
                    "residual": row.stride == 1 and channels == out,
                }
            )
            self.all_features[f"{number}.expand"] = Feature(expanded, stride)
            stride *= step
            self.all_features[f"{number}.depthwise"] = Feature(expanded, stride)
            self.all_features[f"{number}.out"] = Feature(out, stride)
            channels = out
        last = round_channels(table.tails[tail].last * width)
        self.all_features["last"] = Feature(last, stride)

        order = list(self.all_features)
        unknown = [tap for tap in taps if tap not in self.all_features]
        if unknown or not taps:
            raise InputError(f"taps {unknown or taps} unknown; {architecture} has: {', '.join(order)}")
        self.features = {tap: self.all_features[tap] for tap in taps}
        deepest = max(taps, key=order.index)

        self.stem = ConvNormAct(in_channels, self.all_features["stem"].channels, 3, 2, activation=nn.Hardswish, **norm)
        self.blocks = nn.ModuleDict()
        if deepest in ("stem", "last"):
            depth = {"stem": 0, "last": len(plans)}[deepest]
        else:
            depth = int(deepest.split(".")[0])
        for number, plan in enumerate(plans[:depth], start=1):
            points = tuple(point for point in POINTS if f"{number}.{point}" in taps)
            if (number < depth or deepest == "last") and "out" not in points:
                points += ("out",)
            self.blocks[str(number)] = Bottleneck(**plan, points=points, **norm)
        self.last = ConvNormAct(channels, last, 1, activation=nn.Hardswish, **norm) if deepest == "last" else None
        initialise(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images [N, C, H, W] -> {tap: [N, channels, H/stride, W/stride]}, in the order of `features`."""
        x = self.stem(images)
        values = {"stem": x}
        for number, block in self.blocks.items():
            for point, value in block(x).items():
                x = values[f"{number}.{point}"] = value
        if self.last is not None:
            values["last"] = self.last(x)
        return {tap: values[tap] for tap in self.features}


class Classifier(nn.Module):
    """Body, mean over the map, hidden layer with hard swish, dropout, one output per class; see `classifier`."""

    def __init__(self, network: Network, hidden: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = network
        self.hidden = nn.Linear(network.features["last"].channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, num_classes)
        for layer in (self.hidden, self.output):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> logits [N, num_classes]."""
        pooled = self.backbone(images)["last"].mean((2, 3))
        return self.output(self.dropout(F.hardswish(self.hidden(pooled))))


def initialise(module: nn.Module) -> None:
    """He initialisation over the fan-out, as the reference implementations; norms are the identity already."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def names() -> list[str]:
    """Every architecture that `create` and `classifier` know."""
    return sorted(ARCHITECTURES)


def create(
    name: str,
    *,
    width: float = 1.0,
    tail: str = "full",
    output_stride: int = 32,
    in_channels: int = 3,
    taps: Iterable[str] = ("last",),
    dilate_strided_block: bool = False,
    norm_eps: float = 1e-3,
    norm_momentum: float = 0.01,
) -> Network:
    """A network that returns the values at `taps`; nothing past the deepest tap is built.

    Arguments:
        name: one of `names()`.
        width: multiplies all channels, which are then rounded to multiples of 8.
        tail: "full", or with the last stage halved "detection" (section 6.3) or "segmentation" (section 6.4, RF2).
        output_stride: 8, 16 or 32; strides beyond it become dilations.
        taps: "stem", "<block>.expand", "<block>.depthwise", "<block>.out" (blocks numbered from 1) and "last".
        dilate_strided_block: dilate also the block whose stride was removed, as torchvision's segmenters do.
    Raises:
        InputError: an unknown name, tail, stride or tap; the message lists the valid ones.
    """
    _check("architecture", name, names())
    _check("tail", tail, list(ARCHITECTURES[name].tails))
    _check("output_stride", output_stride, [8, 16, 32])
    if not width > 0:
        raise InputError(f"width {width!r} must be above 0")
    return Network(
        name,
        width=width,
        tail=tail,
        output_stride=output_stride,
        in_channels=in_channels,
        taps=tuple(taps),
        dilate_strided_block=dilate_strided_block,
        norm_eps=norm_eps,
        norm_momentum=norm_momentum,
    )


def classifier(
    name: str, *, num_classes: int = 1000, width: float = 1.0, in_channels: int = 3, dropout: float = 0.2
) -> Classifier:
    """An ImageNet classifier: images [N, C, H, W] -> logits [N, num_classes].

    The hidden layer grows with widths above 1 and never shrinks, as in the paper's table of widths (appendix).
    """
    network = create(name, width=width, in_channels=in_channels, taps=("last",))
    hidden = round_channels(ARCHITECTURES[name].hidden * max(1.0, width))
    return Classifier(network, hidden, num_classes, dropout)


def _check(what: str, value: object, valid: list) -> None:
    if value not in valid:
        raise InputError(f"{what} {value!r} unknown; valid: {', '.join(map(str, valid))}")
