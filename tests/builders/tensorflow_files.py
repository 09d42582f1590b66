"""Writes checkpoints as TensorFlow does, and computes the official graphs of MobileNetV3 and DeepLab on them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import tests.builders.port_networks as ports

TYPES = {"float32": 1, "int64": 9}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block of a table: names by what they share with the one before; one restart, no compression, no checksum."""
    out, before = b"", b""
    for name, value in entries:
        shared = next(
            (at for at, pair in enumerate(zip(before, name, strict=False)) if pair[0] != pair[1]), len(before)
        )
        out += varint(shared) + varint(len(name) - shared) + varint(len(value)) + name[shared:] + value
        before = name
    return out + bytes(4) + (1).to_bytes(4, "little") + bytes(5)


def write_checkpoint(prefix: Path, values: dict[str, np.ndarray], *, names_per_block: int = 100) -> Path:
    """A checkpoint of one data file, its index in several blocks; returns the path of its index."""
    data, entries = b"", [(b"", field(1, 1))]
    for name in sorted(values):
        stored = np.asarray(values[name]).tobytes()
        shape = b"".join(field(2, field(1, side)) for side in np.shape(values[name]))
        where = field(4, len(data)) + field(5, len(stored))
        entries.append((name.encode(), field(1, TYPES[values[name].dtype.name]) + field(2, shape) + where))
        data += stored
    table, places = b"", []
    for start in range(0, len(entries), names_per_block):
        part = entries[start : start + names_per_block]
        places.append((part[-1][0], varint(len(table)) + varint(len(block(part)) - 5)))
        table += block(part)
    ends = []
    for part in ([], places):
        ends.append(varint(len(table)) + varint(len(block(part)) - 5))
        table += block(part)
    table += b"".join(ends).ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    index = Path(f"{prefix}.index")
    index.write_bytes(table)
    return index


class Tensors(dict):
    """Random values for a network's layers, by TF-slim's names and in TensorFlow's order of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(0)

    def put(self, name: str, values: np.ndarray) -> None:
        self[name] = values.astype(np.float32)

    def conv(
        self, scope: str, kernel: int, inner: int, out: int, *, norm: bool = True, depthwise: bool = False
    ) -> None:
        spread = (kernel * kernel * (1 if depthwise else inner)) ** -0.5
        shape = (kernel, kernel, inner, 1 if depthwise else out)
        self.put(f"{scope}/{'depthwise_' * depthwise}weights", self.random.normal(0, spread, shape))
        if not norm:
            self.put(f"{scope}/biases", self.random.normal(0, 0.2, out))
            return
        for name, values in (
            ("gamma", self.random.uniform(0.7, 1.7, out)),
            ("beta", self.random.normal(0, 0.2, out)),
            ("moving_mean", self.random.normal(0, 0.2, out)),
            ("moving_variance", self.random.uniform(0.3, 1.5, out)),
        ):
            self.put(f"{scope}/BatchNorm/{name}", values)

    def body(self, rows: tuple, last: int, scope: str = "MobilenetV3") -> None:
        """Rows of port_networks."""
        self.conv(f"{scope}/Conv", 3, 3, 16)
        inner = 16
        for number, (kernel, expanded, out, squeeze, _, _) in enumerate(rows):
            name = f"{scope}/expanded_conv" + (f"_{number}" if number else "")
            if expanded != inner:
                self.conv(f"{name}/expand", 1, inner, expanded)
            self.conv(f"{name}/depthwise", kernel, expanded, expanded, depthwise=True)
            if squeeze:
                squeezed = max(8, (expanded // 4 + 4) // 8 * 8)
                squeezed += 8 * (squeezed < 0.9 * expanded / 4)
                self.conv(f"{name}/squeeze_excite/Conv", 1, expanded, squeezed, norm=False)
                self.conv(f"{name}/squeeze_excite/Conv_1", 1, squeezed, expanded, norm=False)
            self.conv(f"{name}/project", 1, expanded, out)
            inner = out
        self.conv(f"{scope}/Conv_1", 1, inner, last)

    def classifier(self, last: int, hidden: int, outputs: int) -> None:
        self.conv("MobilenetV3/Conv_2", 1, last, hidden, norm=False)
        self.conv("MobilenetV3/Logits/Conv2d_1c_1x1", 1, hidden, outputs, norm=False)

    def lraspp(self, low: int, high: int, filters: int, classes: int) -> None:
        self.conv("aspp0", 1, high, filters)
        self.conv("image_pooling", 1, high, filters, norm=False)
        self.conv("decoder/decoder_conv0", 1, filters, classes, norm=False)
        self.conv("decoder/feature_projection0", 1, low, classes, norm=False)

    # The graphs, on maps [N, C, H, W].

    def apply(self, scope: str, x: Tensor, *, stride: int = 1, rate: int = 1, eps: float = 1e-3) -> Tensor:
        """A convolution as TensorFlow's SAME pads it, with its norm or bias."""
        depthwise = f"{scope}/depthwise_weights" in self
        weight = torch.from_numpy(self[f"{scope}/{'depthwise_' * depthwise}weights"])
        weight = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(3, 2, 0, 1)
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max(0, (-(-side // stride) - 1) * stride + (weight.shape[2] - 1) * rate + 1 - side)
            pads += [total // 2, total - total // 2]
        bias = torch.from_numpy(self[f"{scope}/biases"]) if f"{scope}/biases" in self else None
        x = F.conv2d(F.pad(x, pads), weight, bias, stride, 0, rate, x.shape[1] if depthwise else 1)
        if bias is not None:
            return x
        gamma, beta, mean, variance = (
            torch.from_numpy(self[f"{scope}/BatchNorm/{name}"])
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, eps=eps)

    def features(self, rows: tuple, x: Tensor, *, output_stride: int = 32) -> tuple[Tensor, list[Tensor]]:
        """The last map and each block's depthwise output."""
        hard = any(row[4] for row in rows)
        last_act = F.hardswish if hard else F.relu
        x = last_act(self.apply("MobilenetV3/Conv", x, stride=2))
        total, rate, depthwise = 2, 1, []
        for number, (_, expanded, _, squeeze, hard, stride) in enumerate(rows):
            name = "MobilenetV3/expanded_conv" + (f"_{number}" if number else "")
            act = F.hardswish if hard else F.relu
            block_rate = rate
            if total == output_stride:
                stride, rate = 1, rate * stride
            total *= stride
            y = act(self.apply(f"{name}/expand", x)) if expanded != x.shape[1] else x
            y = act(self.apply(f"{name}/depthwise", y, stride=stride, rate=block_rate))
            depthwise.append(y)
            if squeeze:
                gate = F.relu(self.apply(f"{name}/squeeze_excite/Conv", y.mean((2, 3), keepdim=True)))
                y = y * (F.relu6(self.apply(f"{name}/squeeze_excite/Conv_1", gate) + 3) * 0.16667)
            y = self.apply(f"{name}/project", y)
            x = x + y if stride == 1 and x.shape == y.shape else y
        return last_act(self.apply("MobilenetV3/Conv_1", x)), depthwise

    def logits(self, rows: tuple, images: Tensor) -> Tensor:
        """slim's classifier on square images: [N, 3, S, S] -> [N, outputs]."""
        x = self.features(rows, images)[0].mean((2, 3), keepdim=True)
        x = self.apply("MobilenetV3/Conv_2", x)
        x = F.hardswish(x) if any(row[4] for row in rows) else F.relu(x)
        return self.apply("MobilenetV3/Logits/Conv2d_1c_1x1", x)[:, :, 0, 0]

    def segment(self, rows: tuple, low: int, images: Tensor, *, window: int, step: tuple[int, int]) -> Tensor:
        """DeepLab's LR-ASPP at output stride 32 on images of 32 k + 1 pixels: [N, 3, H, W] -> [N, C, H, W]."""

        def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
            return F.interpolate(x, size, mode="bilinear", align_corners=True)

        high, depthwise = self.features(rows, images, output_stride=32)
        pooled = self.apply("image_pooling", F.avg_pool2d(high, window, step))
        gate = resize(F.relu6(pooled + 3) * 0.16667, high.shape[2:])
        x = F.relu(self.apply("aspp0", high, eps=1e-5)) * gate
        low_size = [(side - 1) // 8 + 1 for side in images.shape[2:]]
        x = self.apply("decoder/decoder_conv0", resize(x, low_size))
        return resize(x + self.apply("decoder/feature_projection0", depthwise[low]), images.shape[2:])


SEGMENTATION_LARGE = ports.with_tail(ports.LARGE, (336, 480, 480), 80)


SEGMENTATION_SMALL = ports.with_tail(ports.SMALL, (144, 288, 288), 48)


SEGMENTERS = {  # rows, last, index of the low block, its channels
    "mobilenet_v3_large": (SEGMENTATION_LARGE, 480, 5, 120),
    "mobilenet_v3_small": (SEGMENTATION_SMALL, 288, 2, 88),
}


def deeplab(name: str, classes: int = 19) -> Tensors:
    rows, last, _, low = SEGMENTERS[name]
    tensors = Tensors()
    tensors.body(rows, last)
    tensors.lraspp(low, last, 128, classes)
    return tensors
