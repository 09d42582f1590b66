"""The graph that every format is made from: from the bytes of an image to a model's outputs, by name.

    graph = image_graph(model, description, output="final", size_hw=(512, 1024))
    program = graph.program()       # torch.export's, which the formats take

Its input is `image`, uint8 [N, H, W, 3]; normalisation, the order of the channels and the layout are inside. Outputs:

    segmentation    raw      logits         float32 [N, K, h, w], at the decoder's stride
                    final    labels         uint8 [N, H, W]
    detection       raw      class_logits   float32 [N, A, K]
                             box_offsets    float32 [N, A, 4]
                    final    boxes          float32 [N, D, 4], xyxy in pixels of the input, best first
                             scores         float32 [N, D], 0 for padding, which comes last
                             labels         int64 [N, D]
    classification  raw      logits         float32 [N, K]
    a network       raw      one per tap    float32 [N, C, H/stride, W/stride], named as the tap

A joint network gives what its heads give alone, those of segmentation first; labels of boxes are `box_labels`. Of two
heads of one task the second one's outputs begin with its name and a dot. `export["heads"]` has the names.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from backbone.blocks import ConvNormAct
from backbone.errors import InputError, check_choice
from backbone.inference import for_inference
from backbone.network import Network
from backbone.weights.description import KEY, write_header
from det.model import Detector
from det.postprocess import NMS_IOU, SCORE_THRESHOLD, StaticPostProcess
from seg.model import Segmenter, upsample
from tools.exporting import any_size
from tools.joint.network import JointNetwork
from tools.joint.weights import head_description
from tools.options import CHANNELS, OUTPUTS

INPUT = "image"
LEAST_SIDE = 32
"""Pixels: one cell of the coarsest features."""
TRACED_HW = (256, 320)
"""The size by which a graph for all sizes is traced."""

OUTPUT_NAMES = {
    # (task, output): the names
    ("segmentation", "raw"): ("logits",),
    ("segmentation", "final"): ("labels",),
    ("detection", "raw"): ("class_logits", "box_offsets"),
    ("detection", "final"): ("boxes", "scores", "labels"),
}
Finish = Callable[[Any, Tensor], Sequence[Tensor]]
"""(what the network gives, the graph's input) -> the graph's outputs."""


class ImageGraph(nn.Module):
    """A network between the bytes of its images and its named outputs; made by `image_graph`.

    Attributes:
        names: of the outputs, in order.
        description: the model's, and the `export` entry that says how the graph is used.
        size_hw: the (height, width) of the input in pixels; None where any fits.
        batch: the number of images in an input; None for any.
        multiple: where any size fits, its sides must be multiples of this, in pixels.
    """

    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        finish: nn.Module,
        *,
        names: tuple[str, ...],
        shift: Sequence[float],
        description: dict[str, Any],
        size_hw: tuple[int, int] | None,
        batch: int | None,
        multiple: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.finish = finish
        self.names = names
        self.description = description
        self.size_hw, self.batch, self.multiple = size_hw, batch, multiple
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images uint8 [N, H, W, 3] -> the outputs in the order of `names`."""
        values = (image.float() - self.shift).permute(0, 3, 1, 2)
        return tuple(self.finish(self.network(values), image))

    def example(self) -> Tensor:
        """An input that the graph takes, uint8 [N, H, W, 3]."""
        return torch.zeros(self.batch or 2, *(self.size_hw or TRACED_HW), 3, dtype=torch.uint8)

    def dynamic_shapes(self) -> dict[int, Any] | None:
        """The axes of the input that are free, as torch.export takes them; None if all are fixed."""
        free: dict[int, Any] = {}
        if self.batch is None:
            free[0] = Dim("batch", min=1)
        if self.size_hw is None:
            free |= {1: any_size.free_side("height", self.multiple), 2: any_size.free_side("width", self.multiple)}
        return free or None

    def program(self) -> ExportedProgram:
        """The graph by torch.export."""
        shapes = self.dynamic_shapes()
        return torch.export.export(self, (self.example(),), dynamic_shapes=shapes and {INPUT: shapes})

    def metadata(self) -> str:
        """The description as a file of any format holds it, under `KEY`."""
        return write_header(self.description)[KEY]


class Raw(nn.Module):
    """What the network gives, as it is."""

    def forward(self, values: Tensor | Sequence[Tensor] | Mapping[str, Tensor], image: Tensor) -> Sequence[Tensor]:
        if isinstance(values, Tensor):
            return (values,)
        return tuple(values.values()) if isinstance(values, Mapping) else tuple(values)


class Labels(nn.Module):
    """The label of every pixel of the input."""

    def forward(self, logits: Tensor, image: Tensor) -> Sequence[Tensor]:
        """Logits [N, K, h, w] -> uint8 [N, H, W]."""
        return (upsample(logits, image.shape[1:3]).argmax(1).to(torch.uint8),)


class Boxes(nn.Module):
    """Boxes, scores and labels, padded to a fixed number."""

    def __init__(self, postprocess: StaticPostProcess) -> None:
        super().__init__()
        self.postprocess = postprocess

    def forward(self, raw: Sequence[Tensor], image: Tensor) -> Sequence[Tensor]:
        """Raw output -> boxes [N, D, 4], scores [N, D], labels [N, D]."""
        return self.postprocess(*raw)[:3]


class Heads(nn.Module):
    """What each head of a joint network gives, one after the other."""

    def __init__(self, finishes: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.finishes = nn.ModuleDict(finishes)

    def forward(self, values: Mapping[str, Any], image: Tensor) -> Sequence[Tensor]:
        return tuple(output for name, finish in self.finishes.items() for output in finish(values[name], image))


class End(NamedTuple):
    """What comes after a network."""

    finish: nn.Module  # a `Finish`
    names: tuple[str, ...]  # of the outputs
    entry: dict[str, Any]  # what the description's `export` says of it


def image_graph(
    model: nn.Module,
    description: Mapping[str, Any],
    *,
    output: str = "raw",
    channels: str = "bgr",
    size_hw: tuple[int, int] | None = None,
    batch: int | None = 1,
    dynamic: bool = False,
    score_threshold: float = SCORE_THRESHOLD,
) -> ImageGraph:
    """The graph of a model, whose norms are folded into its convolutions.

    Arguments:
        model: a Segmenter, a Detector, a JointNetwork, a Classifier or a Network; it stays as it is.
        description: of the model, as its weights file has it.
        output: "raw", or "final" for labels and boxes.
        channels: order of the colors in the input, "bgr" or "rgb".
        size_hw: (height, width) of the input in pixels; by default a detector's own, and a classifier's.
        batch: number of images in an input.
        dynamic: take any number of images, and, except for a detector, whose anchors belong to a size, or a joint
            network, any size.
        score_threshold: of the final output where boxes are found: those that score above it.

    Raises:
        InputError: a size is missing or does not fit, or the model has no such output.
    """
    check_choice("output", output, OUTPUTS)
    check_choice("channels", channels, CHANNELS)
    if output == "final" and not isinstance(model, (Segmenter, Detector, JointNetwork)):
        raise InputError("output 'final' does not fit a model without a task's head; give raw")
    free_size = dynamic and not isinstance(model, (Detector, JointNetwork))
    size_hw = None if free_size else _input_size(model, description, size_hw)
    network = for_inference(model, torch.device("cpu"))
    network = network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue] - not in torch's stub
    stem = _stem(network)
    multiple = any_size.multiple_of(network) if free_size else 1
    if free_size and isinstance(network, Segmenter):
        network = any_size.AnySizeSegmenter(network)
    entry: dict[str, Any] = {
        "output": output,
        "channels": channels,
        "size": size_hw and list(size_hw),
        "batch": None if dynamic else batch,
    }
    if free_size:
        entry |= {"multiple": multiple, "least": any_size.LEAST_SIDE, "most": any_size.MOST_SIDE}
    if isinstance(model, JointNetwork):
        finish, names, more = _joint_end(model, description, output, size_hw, score_threshold)
    else:
        finish, names, more = _end(model, description, output, size_hw, score_threshold)
    entry |= more
    entry["outputs"] = list(names)
    return ImageGraph(
        network,
        finish,
        names=names,
        shift=_normalise_in_stem(stem, description, channels),
        description={**description, "export": entry},
        size_hw=size_hw,
        batch=None if dynamic else batch,
        multiple=multiple,
    )


def _end(
    model: nn.Module,
    description: Mapping[str, Any],
    output: str,
    size_hw: tuple[int, int] | None,
    score_threshold: float,
) -> End:
    """What comes after the network of a model with one head or none."""
    if isinstance(model, Segmenter):
        names = OUTPUT_NAMES["segmentation", output]
        return End(Labels() if output == "final" else Raw(), names, {"stride": model.stride})
    if isinstance(model, Detector):
        names = OUTPUT_NAMES["detection", output]
        entry: dict[str, Any] = {"background": model.background}
        if output == "raw":
            return End(Raw(), names, entry)
        assert size_hw is not None  # a detector's never is
        nms_iou = description.get("nms_iou", NMS_IOU)
        postprocess = StaticPostProcess(
            model.anchors_for(size_hw),
            size_hw,
            kind=description["score"],
            background=model.background,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            decode=model.head.decode,
        )
        entry |= {"score_threshold": score_threshold, "nms_iou": nms_iou}
        return End(Boxes(postprocess), names, entry)
    return End(Raw(), tuple(model.features) if isinstance(model, Network) else ("logits",), {})


def _joint_end(
    model: JointNetwork,
    description: Mapping[str, Any],
    output: str,
    size_hw: tuple[int, int] | None,
    score_threshold: float,
) -> End:
    """What comes after a joint network: the ends of its heads.

    The entry has, beside what it has for a single model, `heads`: by name the task, and `outputs`, the names that the
    graph has for those of a model with that head alone.
    """
    finishes: dict[str, nn.Module] = {}
    heads: dict[str, Any] = {}
    entry: dict[str, Any] = {}
    outputs = head_outputs(model, output)
    for name, named in outputs.items():
        single = head_description(description, name)
        finishes[name], _, more = _end(model.single(name), single, output, size_hw, score_threshold)
        heads[name] = {"task": single["task"], "outputs": named} | more
        entry = more | entry  # at the top those of the first head of a task, as for a single model
    names = tuple(name for named in outputs.values() for name in named.values())
    return End(Heads(finishes), names, entry | {"heads": heads})


def head_outputs(model: JointNetwork, output: str) -> dict[str, dict[str, str]]:
    """By the heads' names: the names of a joint network's outputs by those of a model with that head alone."""
    found: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for head, task in sorted(model.tasks.items(), key=lambda item: item[1] == "detection"):
        own = OUTPUT_NAMES[task, output]
        named = {name: "box_labels" if (task, name) == ("detection", "labels") else name for name in own}
        if not taken.isdisjoint(named.values()):
            named = {name: f"{head}.{value}" for name, value in named.items()}
        taken.update(named.values())
        found[head] = named
    return found


def _input_size(model: nn.Module, description: Mapping[str, Any], size_hw: tuple[int, int] | None) -> tuple[int, int]:
    """The (height, width) of a fixed input in pixels."""
    if size_hw is None:
        if isinstance(model, JointNetwork):
            singles = (model.single(name) for name in model.tasks)
            model = next((single for single in singles if isinstance(single, Detector)), model)
        if isinstance(model, Detector):
            return model.image_size_hw
        if "size" in description:
            return description["size"], description["size"]
        raise InputError("the model takes images of any size; give --size HEIGHT WIDTH, or --dynamic")
    if min(size_hw) < LEAST_SIDE:
        raise InputError(f"size {size_hw[0]} {size_hw[1]}: both sides must be at least {LEAST_SIDE} pixels")
    return size_hw


def _stem(network: nn.Module) -> ConvNormAct:
    """The first convolution."""
    body = network if isinstance(network, Network) else network.backbone
    assert isinstance(body, Network)
    return body.stem


def _normalise_in_stem(stem: ConvNormAct, description: Mapping[str, Any], channels: str) -> list[float]:
    """Moves the division by the deviation, and the order of the channels, into the first convolution's weights.

    Returns:
        what remains to be subtracted from the bytes of each channel, in the input's order. It cannot go into a bias:
        at the borders the convolution sees zeros, which stand for the mean.
    """
    order = [0, 1, 2] if channels == "rgb" else [2, 1, 0]
    mean, std = (torch.tensor(description[key], dtype=torch.float64)[order] * 255 for key in ("mean", "std"))
    weight = stem.conv.weight[:, order].double() / std.view(1, 3, 1, 1)
    stem.conv.weight = nn.Parameter(weight.float(), requires_grad=False)
    return mean.tolist()
