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
    """Settings that all convolutions of a network share."""

    norm_eps: float = 1e-3
    norm_momentum: float = 0.01
    padding: str = "symmetric"  # or "same", as TensorFlow pads: less on the left and top of strided convolutions


class SameConv2d(nn.Conv2d):
    """Strided convolution with TensorFlow's SAME padding at every input size: an odd pixel goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H / stride), ceil(W / stride)]."""
        return super().forward(self.pad(input))

    def pad(self, input: Tensor) -> Tensor:
        """The input with its border of zeros: [N, C, H, W] -> [N, C, H + rows, W + columns]."""
        pads = []  # left, right, top, bottom
        for axis in (1, 0):
            size, step = input.shape[axis + 2], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = (-(-size // step) - 1) * step + reach - size  # not negative: no kernel is narrower than its stride
            pads += [total // 2, total - total // 2]
        return F.pad(input, pads)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, and an activation unless it is None."""

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
        # The two paddings differ only with a stride, as all kernels are odd.
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
        # In place, since nothing else reads the norm's output; it makes a batch of 32 about 10 % faster on a CPU.
        self.activation = nn.Identity() if activation is None else activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H / stride), ceil(W / stride)]."""
        return self.finish(self.conv(x))

    def finish(self, x: Tensor) -> Tensor:
        """Norm and activation of the convolution's output, [N, C', H, W], possibly in place."""
        return self.activation(self.norm(x))


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all channels (V3, section 5.3).

    Arguments:
        squeezed: channels of the layer between the means and the gates.
        activation: of that layer.
        gate: squashes the gates to 0..1.
        after: activation of the scaled map.
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
        """[N, C, H, W] -> same shape."""
        mean = x.mean((2, 3), keepdim=True)  # [N, C, 1, 1]
        return self.after(x * self.gate(self.expand(self.activation(self.reduce(mean)))))


class DropBlock(nn.Module):
    """In training, sets 7x7 squares to zero that cover about a share `p` of the map (arXiv 1810.12890).

    `p` may be changed between steps. torchvision's own module fails where a map's side is even and below 7.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same shape; unchanged in evaluation mode."""
        if not self.training:
            return x
        side = min(7, *x.shape[-2:])
        return drop_block2d(x, self.p, side - 1 + side % 2)


class Bottleneck(nn.Module):
    """The one block of all families: [start], expand, [depthwise], [squeeze-and-excite], project, [add the input].

    With a 1x1 expansion it is the inverted residual of V2 and V3 (figure 4); without an expansion, the separable
    convolution of V1; with a k x k expansion and no depthwise convolution, the fused block; with a depthwise
    convolution at the start, V4's universal inverted bottleneck.

    The values that can be tapped are called points:

        start      output of the depthwise convolution before the expansion, after its norm; it has no activation
        expand     input of the depthwise convolution, after norm and activation; the block's input if nothing expands
        depthwise  output of the depthwise convolution, before squeeze-and-excite, after norm and activation (before
                   the activation where squeeze-and-excite comes first)
        out        the block's output

    Arguments:
        plan: kernels, channels, stride and dilation of the block.
        convolution: the settings of all its convolutions.
        points: what `forward` returns, in the order above; layers past the deepest point are not built.
        drop_path: probability of leaving out the residual branch of an image in training.
        drop_block: share of values left out of the residual branch in training.
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
        self.depthwise = None
        if "depthwise" in built:
            self.depthwise = ConvNormAct(
                plan.expanded,
                plan.expanded,
                plan.depthwise_kernel,
                plan.stride,
                groups=plan.expanded,
                activation=None if plan.se_before_activation else activation,
                **common,
            )
        self.squeeze_excite = nn.Identity()
        self.project = None
        if "out" in built:
            if plan.squeezed:
                inner = ACTIVATIONS[plan.squeeze.nonlinearity or plan.nonlinearity]
                last = activation if plan.se_before_activation else nn.Identity
                self.squeeze_excite = SqueezeExcite(plan.expanded, plan.squeezed, inner, GATES[plan.squeeze.gate], last)
            after = activation if plan.project_activated else None
            self.project = ConvNormAct(plan.expanded, plan.out, 1, activation=after, **common)
        self.drop_path = StochasticDepth(drop_path, "row") if plan.residual and drop_path else nn.Identity()
        self.drop_block = DropBlock(drop_block) if drop_block else nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """A map [N, in_channels, H, W] -> {point: value} for `points`.

        `start` is [N, in_channels, h, w], `expand` and `depthwise` are [N, expanded, h, w] and `out` is
        [N, out, H / stride, W / stride], where (h, w) is the input's size before the strided convolution and the
        output's after it.
        """
        # Convolution and norm are separate statements, so that a convolution's input is freed before its norm allocates
        # as much memory again. Otherwise large batches are up to 10 % slower on a CPU: the allocator then has to get
        # new pages from the system.
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
                y += x  # in place: nothing else refers to y, and no gradient needs its former value
            values["out"] = y
        return values
