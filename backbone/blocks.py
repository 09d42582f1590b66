"""The building blocks of MobileNetV3: convolution with norm, squeeze-and-excite, and the bottleneck with its taps."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

POINTS = ("expand", "depthwise", "out")
"""The values of a bottleneck that can be tapped, in the order in which they are computed."""


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation (None for a linear layer): [N, C, H, W] -> [N, C', H/s, W/s]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: Callable[[], nn.Module] | None = None,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2 * dilation
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)
        self.activation = nn.Identity() if activation is None else activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the mean of all channels (section 5.3; hard sigmoid): same shape."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # [N, C, 1, 1]
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(mean))))


class Bottleneck(nn.Module):
    """The inverted residual of figure 4: 1x1 expansion, depthwise convolution, squeeze-and-excite, 1x1 projection.

    It returns the values at `points` as a dict and builds nothing past the deepest of them:
    `expand` is what enters the depthwise convolution (the block's input where nothing is expanded),
    `depthwise` what leaves it, before squeeze-and-excite, `out` the block's output. The first two are taken after norm
    and activation.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        dilation: int,
        squeezed: int | None,
        activation: Callable[[], nn.Module],
        residual: bool,
        points: tuple[str, ...],
        norm_eps: float,
        norm_momentum: float,
    ) -> None:
        super().__init__()
        self.points = points
        self.residual = residual
        deepest = max(POINTS.index(point) for point in points)
        norm = {"norm_eps": norm_eps, "norm_momentum": norm_momentum}

        self.expand: nn.Module = nn.Identity()
        if expanded != in_channels:
            self.expand = ConvNormAct(in_channels, expanded, 1, activation=activation, **norm)
        self.depthwise = self.squeeze_excite = self.project = None
        if deepest >= POINTS.index("depthwise"):
            self.depthwise = ConvNormAct(
                expanded, expanded, kernel_size, stride, dilation, groups=expanded, activation=activation, **norm
            )
        if deepest >= POINTS.index("out"):
            self.squeeze_excite = nn.Identity() if squeezed is None else SqueezeExcite(expanded, squeezed)
            self.project = ConvNormAct(expanded, out_channels, 1, **norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        values = {}
        y = self.expand(x)
        if "expand" in self.points:
            values["expand"] = y
        if self.depthwise is not None:
            y = self.depthwise(y)
            if "depthwise" in self.points:
                values["depthwise"] = y
        if self.project is not None:
            y = self.project(self.squeeze_excite(y))
            values["out"] = x + y if self.residual else y
        return values
