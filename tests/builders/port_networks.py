"""The networks of other ports of MobileNet, written anew with their names of tensors and their order of layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# kernel, expanded, out, squeeze-and-excite, hard swish, stride
LARGE = (
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)
SMALL = (
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)
# The channels of mmpretrain's small_050: expanded, out.
HALF = (
    (16, 8),
    (40, 16),
    (56, 16),
    (64, 24),
    (144, 24),
    (144, 24),
    (72, 24),
    (72, 24),
    (144, 48),
    (288, 48),
    (288, 48),
)
SMALL_050 = tuple((row[0], *channels, *row[3:]) for row, channels in zip(SMALL, HALF, strict=True))


def with_tail(rows: tuple, expanded: tuple[int, int, int], out: int) -> tuple:
    last = [(row[0], wide, out, *row[3:]) for row, wide in zip(rows[-3:], expanded, strict=True)]
    return (*rows[:-3], *last)


def convolution(in_channels: int, out: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1):
    padding = (kernel - 1) * dilation // 2
    return nn.Conv2d(in_channels, out, kernel, stride, padding, dilation, groups, bias=False)


def activation(hard_swish: int) -> nn.Module:
    return nn.Hardswish() if hard_swish else nn.ReLU()


def squeezed(channels: int, divisor: int = 8) -> int:
    """A quarter, rounded to a multiple, but by no more than a tenth down."""
    quarter = channels // 4
    rounded = max(divisor, (quarter + divisor // 2) // divisor * divisor)
    return rounded + divisor * (rounded < 0.9 * quarter)


def gate(x: Tensor, reduce: nn.Module, expand: nn.Module) -> Tensor:
    return x * F.hardsigmoid(expand(F.relu(reduce(x.mean((2, 3), keepdim=True)))))


class Parts(nn.Module):
    """Modules by name, for names that are no attributes in the classes here."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Block1e100(nn.Module):
    def __init__(self, in_channels, row, dilation=1):
        super().__init__()
        kernel, wide, out, squeeze, swish, stride = row
        self.skip = stride == 1 and in_channels == out
        self.expand = None
        if wide != in_channels:
            self.expand = nn.Sequential(convolution(in_channels, wide), nn.BatchNorm2d(wide), activation(swish))
        depthwise = convolution(wide, wide, kernel, stride, dilation, wide)
        self.dw_conv = nn.Sequential(depthwise, nn.BatchNorm2d(wide), activation(swish))
        self.se = None
        if squeeze:
            few = squeezed(wide)
            self.se = Parts(reduce=nn.Conv2d(wide, few, 1), expand=nn.Conv2d(few, wide, 1))
        self.contract = nn.Sequential(convolution(wide, out), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.dw_conv(x if self.expand is None else self.expand(x))
        y = self.contract(y if self.se is None else gate(y, self.se.reduce, self.se.expand))
        return x + y if self.skip else y


class Net1e100(nn.Module):
    """1e100/mobilenet_v3; with `dilated`, its _segmentation form: no stride and dilation 2 in the last three blocks."""

    def __init__(self, rows, last, classes=10, dilated=False):
        super().__init__()
        if dilated:
            rows = (*rows[:-3], *((*row[:5], 1) for row in rows[-3:]))
        self.input_layer = Parts(conv=convolution(3, 16, 3, 2), bn=nn.BatchNorm2d(16))
        self.body, in_channels = nn.Sequential(), 16
        for number, row in enumerate(rows):
            dilation = 2 if dilated and number >= len(rows) - 3 else 1
            self.body.add_module(f"bottleneck{number}", Block1e100(in_channels, row, dilation))
            in_channels = row[2]
        self.body.add_module("last_conv", Parts(conv=convolution(in_channels, last), bn=nn.BatchNorm2d(last)))
        layers = nn.Identity(), nn.Identity(), nn.Linear(last, 1280), nn.Hardswish(), nn.Identity()
        self.classifier = nn.Sequential(*layers, nn.Linear(1280, classes))

    def features(self, x):
        for layer in (self.input_layer, *self.body):
            x = layer(x) if isinstance(layer, Block1e100) else F.hardswish(layer.bn(layer.conv(x)))
        return x

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class BlockDLi14(nn.Module):
    """Squeeze-and-excite behind the activation where nothing is expanded, before it elsewhere."""

    class Squeeze(nn.Module):
        def __init__(self, channels):
            super().__init__()
            few = squeezed(channels)
            self.fc = nn.Sequential(nn.Linear(channels, few), nn.ReLU(), nn.Linear(few, channels), nn.Hardsigmoid())

        def forward(self, x):
            return x * self.fc(x.mean((2, 3)))[:, :, None, None]

    def __init__(self, in_channels, row):
        super().__init__()
        kernel, wide, out, squeeze, swish, stride = row
        self.skip = stride == 1 and in_channels == out
        scale = self.Squeeze(wide) if squeeze else nn.Identity()
        depthwise = [convolution(wide, wide, kernel, stride, groups=wide), nn.BatchNorm2d(wide)]
        project = [convolution(wide, out), nn.BatchNorm2d(out)]
        if wide == in_channels:
            layers = [*depthwise, activation(swish), scale, *project]
        else:
            expand = [convolution(in_channels, wide), nn.BatchNorm2d(wide), activation(swish)]
            layers = [*expand, *depthwise, scale, activation(swish), *project]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class NetDLi14(nn.Module):
    """d-li14/mobilenetv3.pytorch."""

    def __init__(self, rows, hidden, classes=10, stem=16):
        super().__init__()
        layers, in_channels = [nn.Sequential(convolution(3, stem, 3, 2), nn.BatchNorm2d(stem), nn.Hardswish())], stem
        for row in rows:
            layers.append(BlockDLi14(in_channels, row))
            in_channels = row[2]
        self.features = nn.Sequential(*layers)
        last = rows[-1][1]
        self.conv = nn.Sequential(convolution(in_channels, last), nn.BatchNorm2d(last), nn.Hardswish())
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )

    def forward(self, x):
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


class BlockRandl(nn.Module):
    """A 1x1 expansion in every block; counters of DropBlock behind every norm."""

    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("i", torch.zeros(1, dtype=torch.int64))
            self.dropblock = nn.Module()
            self.dropblock.register_buffer("drop_prob", torch.zeros(1))

    def __init__(self, in_channels, row):
        super().__init__()
        kernel, wide, out, squeeze, swish, stride = row
        self.skip = stride == 1 and in_channels == out
        self.act = activation(swish)
        self.conv1, self.bn1, self.db1 = convolution(in_channels, wide), nn.BatchNorm2d(wide), self.Counter()
        self.conv2 = convolution(wide, wide, kernel, stride, groups=wide)
        self.bn2, self.db2 = nn.BatchNorm2d(wide), self.Counter()
        self.conv3, self.bn3, self.db3 = convolution(wide, out), nn.BatchNorm2d(out), self.Counter()
        self.se = None
        if squeeze:
            self.se = Parts(linear1=nn.Linear(wide, wide // 4), linear2=nn.Linear(wide // 4, wide))

    def forward(self, x):
        y = self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))
        if self.se is not None:
            mean = F.relu(self.se.linear1(y.mean((2, 3))))
            y = y * F.hardsigmoid(self.se.linear2(mean))[:, :, None, None]
        y = self.bn3(self.conv3(y))
        return x + y if self.skip else y


class NetRandl(nn.Module):
    """Randl/MobileNetV3-pytorch, Large."""

    def __init__(self, rows, classes=10):
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 16, 3, 2), nn.BatchNorm2d(16)
        self.bottlenecks, in_channels = nn.Sequential(), 16
        for number, row in enumerate(rows):
            self.bottlenecks.add_module(f"Bottleneck_{number}", BlockRandl(in_channels, row))
            in_channels = row[2]
        last = rows[-1][1]
        self.last_block = Parts(
            conv1=convolution(in_channels, last),
            bn1=nn.BatchNorm2d(last),
            conv2=nn.Conv2d(last, 1280, 1),
            fc=nn.Linear(1280, classes),
        )

    def forward(self, x):
        x = self.bottlenecks(F.hardswish(self.bn1(self.conv1(x))))
        last = self.last_block
        x = F.hardswish(last.bn1(last.conv1(x))).mean((2, 3), keepdim=True)
        return last.fc(F.hardswish(last.conv2(x)).flatten(1))


class ConvModule(nn.Module):
    """mmcv's: names conv and bn."""

    def __init__(self, in_channels, out, kernel=1, stride=1, groups=1, act=None, eps=1e-3):
        super().__init__()
        self.conv = convolution(in_channels, out, kernel, stride, groups=groups)
        self.bn = nn.BatchNorm2d(out, eps=eps)
        self.act = act or nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class BlockMMPretrain(nn.Module):
    def __init__(self, in_channels, row, eps):
        super().__init__()
        kernel, wide, out, squeeze, swish, stride = row
        self.skip = stride == 1 and in_channels == out
        act = activation(swish)
        self.expand_conv = ConvModule(in_channels, wide, act=act, eps=eps) if wide != in_channels else nn.Identity()
        self.depthwise_conv = ConvModule(wide, wide, kernel, stride, wide, act, eps)
        self.se = None
        if squeeze:
            few = squeezed(wide)
            self.se = Parts(conv1=Parts(conv=nn.Conv2d(wide, few, 1)), conv2=Parts(conv=nn.Conv2d(few, wide, 1)))
        self.linear_conv = ConvModule(wide, out, eps=eps)

    def forward(self, x):
        y = self.depthwise_conv(self.expand_conv(x))
        if self.se is not None:
            y = gate(y, self.se.conv1.conv, self.se.conv2.conv)
        y = self.linear_conv(y)
        return x + y if self.skip else y


class BodyMMPretrainV3(nn.Module):
    def __init__(self, rows, eps):
        super().__init__()
        self.layer0, in_channels = ConvModule(3, 16, 3, 2, act=nn.Hardswish(), eps=eps), 16
        for number, row in enumerate(rows, start=1):
            self.add_module(f"layer{number}", BlockMMPretrain(in_channels, row, eps))
            in_channels = row[2]
        last = ConvModule(in_channels, rows[-1][1], act=nn.Hardswish(), eps=eps)
        self.add_module(f"layer{len(rows) + 1}", last)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class BlockMMPretrainV2(nn.Module):
    def __init__(self, in_channels, out, stride, expansion):
        super().__init__()
        self.skip = stride == 1 and in_channels == out
        wide = in_channels * expansion
        layers = [ConvModule(in_channels, wide, act=nn.ReLU6(), eps=1e-5)] if expansion > 1 else []
        layers.append(ConvModule(wide, wide, 3, stride, wide, nn.ReLU6(), 1e-5))
        self.conv = nn.Sequential(*layers, ConvModule(wide, out, eps=1e-5))

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class BodyMMPretrainV2(nn.Module):
    """At half width."""

    STAGES = ((1, 8, 1, 1), (6, 16, 2, 2), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))

    def __init__(self):
        super().__init__()
        self.conv1, in_channels = ConvModule(3, 16, 3, 2, act=nn.ReLU6(), eps=1e-5), 16
        for number, (expansion, out, count, stride) in enumerate(self.STAGES, start=1):
            blocks = nn.Sequential()
            for index in range(count):
                blocks.append(BlockMMPretrainV2(in_channels, out, stride if index == 0 else 1, expansion))
                in_channels = out
            self.add_module(f"layer{number}", blocks)
        self.conv2 = ConvModule(in_channels, 1280, act=nn.ReLU6(), eps=1e-5)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


class NetMMPretrain(nn.Module):
    """A body with V3's stacked head, or V2's of one layer if `hidden` is 0."""

    def __init__(self, body, last, hidden, classes=10):
        super().__init__()
        self.backbone = body
        if hidden:
            stack = nn.ModuleList([Parts(fc=nn.Linear(last, hidden)), Parts(fc=nn.Linear(hidden, classes))])
            self.head = Parts(layers=stack)
        else:
            self.head = Parts(fc=nn.Linear(last, classes))

    def forward(self, x):
        x = self.backbone(x).mean((2, 3))
        if hasattr(self.head, "fc"):
            return self.head.fc(x)
        first, second = self.head.layers
        return second.fc(F.hardswish(first.fc(x)))


class PaddleGate(nn.Module):
    """Paddle's hard sigmoid."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (0.2 * x + 0.5).clamp(0, 1)
