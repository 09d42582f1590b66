"""The building blocks: convolution with norm, squeeze-and-excite, and the one bottleneck of all families, with taps."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth, drop_block2d

from backbone.architectures.plan import BlockPlan

ACTIVATIONS = {"RE": nn.ReLU, "R6": nn.ReLU6, "HS": nn.Hardswish}
GATES = {"hard_sigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}


class Convolution(NamedTuple):
    """What all convolutions of a network share."""

    norm_eps: float = 1e-3
    norm_momentum: float = 0.01
    padding: str = "symmetric"  # or "same": TensorFlow's, which pads strided convolutions less on the left and top


class SameConv2d(nn.Conv2d):
    """Strided convolution padded as TensorFlow's SAME at every input size: the odd pixel goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []  # left, right, top, bottom
        for axis in (1, 0):
            size, step = x.shape[axis + 2], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = (-(-size // step) - 1) * step + reach - size  # not negative: no kernel is narrower than its stride
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


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
        activation: Callable[..., nn.Module] | None = None,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        # Without a stride the two paddings agree, as all kernels are odd.
        same = padding == "same" and stride > 1
        self.conv = (SameConv2d if same else nn.Conv2d)(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0 if same else (kernel_size - 1) // 2 * dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)
        # In place: nothing else reads what the norm gives, and a batch of 32 is a tenth faster on a CPU.
        self.activation = nn.Identity() if activation is None else activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(self.conv(x))

    def finish(self, x: Tensor) -> Tensor:
        """What comes behind the convolution."""
        return self.activation(self.norm(x))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the mean of all channels (V3, section 5.3): same shape.

    `after` is an activation behind the scaling.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Hardsigmoid,
        after: Callable[[], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()
        self.after = after()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # [N, C, 1, 1]
        return self.after(x * self.gate(self.expand(self.activation(self.reduce(mean)))))


class DropBlock(nn.Module):
    """Sets squares of 7x7 values to zero in training, a share `p` of all values (arXiv 1810.12890); `p` may change.

    torchvision's own module fails where a map's side is even and below 7.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        side = min(7, *x.shape[-2:])
        return drop_block2d(x, self.p, side - 1 + side % 2)


class Bottleneck(nn.Module):
    """[start depthwise], expansion, [depthwise], [squeeze-and-excite], projection; added to the input where that fits.

    With a 1x1 expansion it is the inverted residual of V2 and V3 (figure 4), without one V1's separable convolution,
    with a k x k expansion and no depthwise the fused block, with a start V4's universal inverted bottleneck.

    It returns the values at `points` as a dict and builds nothing past the deepest of them: `start` is what leaves the
    first depthwise convolution (norm, no activation); `expand` what enters the depthwise convolution (the block's input
    where nothing is expanded) and `depthwise` what leaves it, before squeeze-and-excite, both after norm and
    activation (`depthwise` before it where squeeze-and-excite comes first); `out` the block's output.
    """

    def __init__(
        self,
        plan: BlockPlan,
        convolution: Convolution,
        *,
        points: tuple[str, ...],
        drop_path: float,
        drop_block: float,
    ) -> None:
        super().__init__()
        self.points = points
        self.residual = plan.residual
        depth = max(plan.points.index(point) for point in points)
        built = plan.points[: depth + 1]
        activation = ACTIVATIONS[plan.nonlinearity]
        common = {"dilation": plan.dilation, **convolution._asdict()}
        strides = {plan.strided_point: plan.stride}

        self.start = None
        if "start" in built:
            channels = plan.in_channels
            self.start = ConvNormAct(
                channels, channels, plan.start_kernel, strides.get("start", 1), groups=channels, **common
            )
        self.expand = None
        if "expand" in built and plan.expand_kernel:
            self.expand = ConvNormAct(
                plan.in_channels,
                plan.expanded,
                plan.expand_kernel,
                strides.get("expand", 1),
                activation=activation,
                **common,
            )
        self.depthwise = self.squeeze_excite = self.project = None
        if "depthwise" in built:
            self.depthwise = ConvNormAct(
                plan.expanded,
                plan.expanded,
                plan.depthwise_kernel,
                plan.stride,
                groups=plan.expanded,
                activation=None if plan.squeezed_first else activation,
                **common,
            )
        if "out" in built:
            self.squeeze_excite = nn.Identity()
            if plan.squeezed:
                inner = ACTIVATIONS[plan.squeeze.nonlinearity or plan.nonlinearity]
                last = activation if plan.squeezed_first else nn.Identity
                self.squeeze_excite = SqueezeExcite(plan.expanded, plan.squeezed, inner, GATES[plan.squeeze.gate], last)
            after = activation if plan.project_activated else None
            self.project = ConvNormAct(plan.expanded, plan.out, 1, activation=after, **common)
        self.drop_path = StochasticDepth(drop_path, "row") if plan.residual and drop_path else nn.Identity()
        self.drop_block = DropBlock(drop_block) if drop_block else nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        # Convolution and norm are two steps: a convolution's input is freed before its norm needs as much memory. Else
        # forward passes of large batches are up to a tenth slower on a CPU, which then gets pages from the system.
        values = {}
        y = x
        for point, layer in (("start", self.start), ("expand", self.expand), ("depthwise", self.depthwise)):
            if layer is not None:
                y = layer.conv(y)
                y = layer.finish(y)
            if point in self.points:
                values[point] = y
        if self.project is not None:
            y = self.squeeze_excite(y)
            y = self.project.conv(y)
            y = self.drop_path(self.drop_block(self.project.finish(y)))
            if self.residual:
                y += x  # in place: nothing else has seen it, and no gradient needs what it was
            values["out"] = y
        return values
