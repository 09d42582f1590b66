"""The convolutional body of a network whose named values can be tapped, and the classifier on top of it."""

import math
from collections.abc import Iterable

from torch import Tensor, nn

from backbone.architectures.definitions import definition, parse
from backbone.architectures.plan import ARCHITECTURES, Architecture, plan, tails, with_tail
from backbone.blocks import ACTIVATIONS, Bottleneck, ConvNormAct, Convolution
from backbone.errors import InputError, check_choice
from backbone.options import PADDINGS

OWN = "own architecture"
"""`Network.name` of networks that were not built by name."""


class Network(nn.Module):
    """A convolutional body that returns the values at its taps; built by `create`.

    Attributes `features` and `all_features` declare channels and stride of the chosen taps and of every tap that the
    architecture has; `plan` has the channels of every block, built or not.
    """

    def __init__(
        self,
        name: str,
        architecture: Architecture,
        *,
        width: float,
        output_stride: int,
        in_channels: int,
        taps: tuple[str, ...],
        dilate_strided_block: bool,
        fixed_stem: bool,
        convolution: Convolution,
        drop_path: float,
        drop_block: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.architecture = architecture
        self.padding = convolution.padding
        self.plan = plan(
            architecture,
            width=width,
            output_stride=output_stride,
            dilate_strided_block=dilate_strided_block,
            fixed_stem=fixed_stem,
        )
        self.all_features = self.plan.features
        order = list(self.all_features)
        unknown = [tap for tap in taps if tap not in self.all_features]
        if unknown or not taps:
            raise InputError(f"taps {unknown or taps} unknown; {name} has: {', '.join(order)}")
        self.features = {tap: self.all_features[tap] for tap in taps}
        deepest = max(taps, key=order.index)
        blocks = self.plan.blocks
        activation = ACTIVATIONS[architecture.nonlinearity]

        stem = self.all_features["stem"].channels
        self.stem = ConvNormAct(in_channels, stem, 3, 2, activation=activation, **convolution._asdict())
        self.blocks = nn.ModuleDict()
        if deepest in ("stem", "last"):
            depth = {"stem": 0, "last": len(blocks)}[deepest]
        else:
            depth = int(deepest.split(".")[0])
        for number, block in enumerate(blocks[:depth], start=1):
            points = tuple(point for point in block.points if f"{number}.{point}" in taps)
            if (number < depth or deepest == "last") and "out" not in points:
                points += ("out",)
            # Stochastic depth grows linearly with depth (arXiv 1603.09382).
            drop = drop_path * (number - 1) / max(1, len(blocks) - 1)
            deep = self.all_features[f"{number}.out"].stride >= 16
            self.blocks[str(number)] = Bottleneck(
                block, convolution, points=points, drop_path=drop, drop_block=drop_block if deep else 0.0
            )
        self.last = None
        if deepest == "last":  # in networks without a last convolution, the last block's output
            self.last = nn.Identity()
            if self.plan.last:
                self.last = ConvNormAct(
                    blocks[-1].out, self.plan.last, 1, activation=activation, **convolution._asdict()
                )
        initialise(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images [N, C, H, W] -> {tap: [N, channels, H/stride, W/stride]}, in the order of `features`."""
        x = self.stem(images)
        tapped = {"stem": x} if "stem" in self.features else {}  # only taps are kept, so that memory is reused
        for number, block in self.blocks.items():
            values = block(x)
            for point, x in values.items():  # the last value is the deepest, which enters the next block
                if (tap := f"{number}.{point}") in self.features:
                    tapped[tap] = x
        if self.last is not None:
            tapped["last"] = self.last(x)
        return {tap: tapped[tap] for tap in self.features}

    def definition(self) -> list[str]:
        """The body as strings that `definitions.parse` reads; also what printing a network begins with."""
        return definition(self.architecture, self.plan)

    def extra_repr(self) -> str:
        return " ".join(self.definition())


class Classifier(nn.Module):
    """Body, global average pooling, a hidden layer in some architectures, dropout, one output per class."""

    def __init__(self, network: Network, *, hidden: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = network
        architecture = network.architecture
        channels = network.features["last"].channels
        self.hidden = self.hidden_norm = None
        self.activation = nn.Identity()
        if hidden:
            self.hidden = nn.Linear(channels, hidden, bias=architecture.hidden_bias)
            if architecture.hidden_norm:
                like = network.stem.norm
                self.hidden_norm = nn.BatchNorm1d(hidden, eps=like.eps, momentum=like.momentum)
            self.activation = ACTIVATIONS[architecture.nonlinearity]()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden or channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> logits [N, num_classes]."""
        x = self.backbone(images)["last"].mean((2, 3))
        if self.hidden is not None:
            x = self.hidden(x)
            if self.hidden_norm is not None:
                x = self.hidden_norm(x)
            x = self.activation(x)
        return self.output(self.dropout(x))


def initialise(module: nn.Module) -> None:
    """He initialisation over the fan-out, as the reference implementations have it; norms are the identity already."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def names() -> list[str]:
    """Every architecture that `create` and `classifier` know."""
    return sorted(ARCHITECTURES)


def architecture(name: str) -> Architecture:
    """The table of a name in `names()`, or of a network in strings, as `definitions.parse` reads them.

    Raises:
        InputError: an unknown name; the message lists the valid ones. Strings with a fault.
    """
    if "_k" in name:  # every string says its kernel, no name does
        return parse(name)
    check_choice("architecture", name, names())
    return ARCHITECTURES[name]


def create(
    name: str | Architecture,
    *,
    width: float = 1.0,
    tail: str = "full",
    output_stride: int = 32,
    in_channels: int = 3,
    taps: Iterable[str] = ("last",),
    dilate_strided_block: bool = False,
    fixed_stem: bool = False,
    norm_eps: float = 1e-3,
    norm_momentum: float = 0.01,
    padding: str = "symmetric",
    drop_path: float = 0.0,
    drop_block: float = 0.0,
) -> Network:
    """A network that returns the values at `taps`; nothing past the deepest tap is built.

    Arguments:
        name: one of `names()`, a network in strings, or an `Architecture`.
        width: multiplies all channels, which are then rounded to multiples of 8.
        tail: "full"; for MobileNetV3 also the last stage halved, "detection" (section 6.3) or "segmentation"
            (section 6.4, "RF2").
        output_stride: 8, 16 or 32; strides beyond it become dilations.
        taps: "stem", "<block>.<point>" (blocks numbered from 1 as in the paper's table) and "last". Points are
            "expand", "depthwise" and "out", "start" in universal inverted bottlenecks; see `blocks.Bottleneck`.
        dilate_strided_block: dilate also the block whose stride was removed, as torchvision's segmenters do.
        fixed_stem: keep the stem's channels whatever the width, as some published narrow networks do.
        padding: "symmetric", or "same" as TensorFlow pads, for weights that were trained so.
        drop_path: probability of leaving out the last block's residual branch in training; grows linearly up to it.
        drop_block: share of values left out in training, in 7x7 squares, of what blocks of stride 16 and more add
            (DropBlock, arXiv 1810.12890).

    Raises:
        InputError: an unknown name, tail, stride, padding or tap; the message lists the valid ones.
    """
    table = name if isinstance(name, Architecture) else architecture(name)
    check_choice("tail", tail, tails(table))
    check_choice("output_stride", output_stride, [8, 16, 32])
    check_choice("padding", padding, list(PADDINGS))
    if not 0 < width < math.inf:
        raise InputError(f"width {width!r} must be above 0 and finite")
    if not 0 <= drop_path < 1:
        raise InputError(f"drop_path {drop_path!r} must be at least 0 and below 1")
    if not 0 <= drop_block < 1:
        raise InputError(f"drop_block {drop_block!r} must be at least 0 and below 1")
    return Network(
        OWN if isinstance(name, Architecture) or name not in ARCHITECTURES else name,
        with_tail(table, tail),
        width=width,
        output_stride=output_stride,
        in_channels=in_channels,
        taps=tuple(taps),
        dilate_strided_block=dilate_strided_block,
        fixed_stem=fixed_stem,
        convolution=Convolution(norm_eps, norm_momentum, padding),
        drop_path=drop_path,
        drop_block=drop_block,
    )


def classifier(
    name: str | Architecture,
    *,
    num_classes: int = 1000,
    width: float = 1.0,
    tail: str = "full",
    in_channels: int = 3,
    dropout: float = 0.2,
    hidden: int | None = None,
    fixed_stem: bool = False,
    norm_eps: float = 1e-3,
    norm_momentum: float = 0.01,
    padding: str = "symmetric",
    drop_path: float = 0.0,
    drop_block: float = 0.0,
) -> Classifier:
    """An ImageNet classifier: images [N, C, H, W] -> logits [N, num_classes].

    Arguments:
        name, width, tail, in_channels, fixed_stem, norm_eps, norm_momentum, padding, drop_path, drop_block: as for
            `create`.
        hidden: channels of the hidden layer, 0 for none; by default the architecture's. It never shrinks with the
            width, and only MobileNetV3-Small's grows, which gives the parameters of the paper's appendix.
        dropout: probability before the output layer.

    Raises:
        InputError: what `create` raises.
    """
    network = create(
        name,
        width=width,
        tail=tail,
        in_channels=in_channels,
        taps=("last",),
        fixed_stem=fixed_stem,
        norm_eps=norm_eps,
        norm_momentum=norm_momentum,
        padding=padding,
        drop_path=drop_path,
        drop_block=drop_block,
    )
    hidden = network.plan.hidden if hidden is None else hidden
    return Classifier(network, hidden=hidden, num_classes=num_classes, dropout=dropout)
