"""One backbone, one forward pass, and several heads: segmentation and detection of the same image at once.

network = create(
    "mobilenet_v3_large",
    heads={"segmentation": {"head": "lraspp"}, "detection": {"head": "pico96", "num_classes": 8}},
)
raw = network(images)  # {"segmentation": logits [N, 19, h, w], "detection": RawDetections}
segmenter = network.single("segmentation")  # as seg.create makes it, on the shared backbone
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import backbone as backbones
import det
import seg
from backbone.architectures.rows import Architecture
from backbone.errors import InputError, check_choice
from det.boxes import RawDetections
from det.model import default_tail as tail_of_detector
from seg.heads import OUTPUT_STRIDES
from seg.heads.taps import auxiliary_tap
from seg.model import default_tail as tail_of_segmenter

TASKS = ("segmentation", "detection")
TAIL_ORDER = ("full", "detection", "segmentation")
"""Of the tails that the heads would take alone, the first in this order is taken: none of them loses channels."""
OF_THE_BODY = ("backbone", "width", "tail", "output_stride", "padding")
"""Keywords of `seg.create` and `det.create` that say what the shared backbone is."""
SINGLE_ONLY = ("auxiliary", "align_corners")
"""Keywords of `seg.create` that a head on a shared backbone cannot have."""

Raw = Tensor | RawDetections
"""What a head gives: logits [N, C, h, w] of a segmenter, `RawDetections` of a detector."""
Single = seg.Segmenter | det.Detector
"""A model with one head."""


class JointNetwork(nn.Module):
    """A backbone and named heads on its taps; made by `create`.

    The heads are attributes: `network.segmentation` is the head module that `seg.create` would have made, so that its
    part of the state dict is that of the single model with `head.` for `segmentation.`.

    Attributes:
        tasks: of each head, by name: "segmentation" or "detection".
        taps: the features that each head takes, by name.
        arguments: of each head, by name: the keywords of `seg.create` or `det.create` that make its single model.
        body: the keywords that make the backbone: backbone, width, tail, output_stride, padding.
        multiple, least: the image's sides are multiples of the first and no smaller than the second, in pixels.
    """

    def __init__(
        self,
        network: backbones.Network,
        singles: Mapping[str, Single],
        arguments: Mapping[str, dict[str, Any]],
        body: dict[str, Any],
    ) -> None:
        super().__init__()
        self.backbone = network
        self.tasks = {
            name: "detection" if isinstance(one, det.Detector) else "segmentation" for name, one in singles.items()
        }
        self.taps = {name: one.taps for name, one in singles.items()}
        self.arguments = {name: dict(keywords) for name, keywords in arguments.items()}
        self.body = body
        segmenters = [one.head for one in singles.values() if isinstance(one, seg.Segmenter)]
        self.multiple = max((head.multiple for head in segmenters), default=1)
        self.least = max((head.least for head in segmenters), default=1)
        for name, one in singles.items():
            if not name.isidentifier() or hasattr(self, name):
                raise InputError(f"heads: {name!r} cannot be a head's name; take a word that no part of a network has")
            self.add_module(name, one.head)

    def forward(self, images: Tensor | Mapping[str, Tensor]) -> dict[str, Raw]:
        """Normalised images [N, 3, H, W] -> what each head gives, by its name.

        To train on separate data sets, images may also be a table from heads' names to the images of each: a head then
        answers for its own. Images of one size pass the backbone as one batch, so that in training its norms see the
        mixture that their running statistics are of; others pass it one after the other.

        Raises:
            InputError: a side of the images does not suit a head.
        """
        if isinstance(images, Tensor):
            self._check_size(images)
            features = self.backbone(images)
            return {name: self._answer(name, features) for name in self.tasks}
        for part in images.values():
            self._check_size(part)
        if len({part.shape[1:] for part in images.values()}) > 1 or len(images) == 1:
            return {name: self._answer(name, self.backbone(part)) for name, part in images.items()}
        sizes = [len(part) for part in images.values()]
        shared = self.backbone(torch.cat(list(images.values())))
        parts = {tap: value.split(sizes) for tap, value in shared.items()}
        return {
            name: self._answer(name, {tap: value[number] for tap, value in parts.items()})
            for number, name in enumerate(images)
        }

    def keywords(self) -> dict[str, Any]:
        """The keywords of `create` that make this network."""
        own = {
            name: {"task": self.tasks[name]} | {key: value for key, value in given.items() if key not in OF_THE_BODY}
            for name, given in self.arguments.items()
        }
        return self.body | {"heads": own}

    def _answer(self, name: str, features: Mapping[str, Tensor]) -> Raw:
        """What a head makes of the backbone's features."""
        return self.get_submodule(name)(*(features[tap] for tap in self.taps[name]))

    def _check_size(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.multiple or width % self.multiple or min(height, width) < self.least:
            raise InputError(
                f"images of {width}x{height} pixels do not suit the heads; sides must be multiples of {self.multiple}, "
                f"at least {self.least}"
            )

    def single(self, name: str) -> Single:
        """The model of one head on the shared backbone: the same modules, so that what changes one changes the other.

        Its backbone computes the taps of all heads; `weights.split` makes a model that has its own only.
        """
        head, keywords = self.get_submodule(name), self.arguments[name]
        if self.tasks[name] == "segmentation":
            extra = auxiliary_tap(self.backbone.architecture)
            model = seg.Segmenter(
                self.backbone,
                head,  # pyright: ignore[reportArgumentType] - as seg.create made it
                taps=self.taps[name],
                auxiliary=None,
                auxiliary_tap=extra,
                align_corners=False,
            )
        else:
            size = keywords.get("image_size", 320)
            model = det.Detector(
                self.backbone,
                head,  # pyright: ignore[reportArgumentType] - as det.create made it
                taps=self.taps[name],
                num_classes=keywords.get("num_classes", 80),
                variant=keywords.get("variant", "paper"),
                image_size_hw=(size, size) if isinstance(size, int) else tuple(size),
                resize=keywords.get("resize", "stretch"),
            ).to(next(self.parameters()).device)
        return model.train(self.training)


def create(
    backbone: str = "mobilenet_v3_large",
    *,
    heads: Mapping[str, Mapping[str, Any]],
    width: float = 1.0,
    tail: str | None = None,
    output_stride: int | None = None,
    padding: str = "symmetric",
) -> JointNetwork:
    """A network with fresh weights: images [N, 3, H, W] -> {name of a head: what it gives}.

    Arguments:
        backbone: one of `backbone.names()`, or a network in strings as `backbone.parse` reads them.
        heads: by name, which is free, the keywords of `seg.create` or `det.create` but those in OF_THE_BODY and
            SINGLE_ONLY, and `task`, "segmentation" or "detection"; by default the name is the task.
        width: multiplies the backbone's channels.
        tail: the backbone's last stage; by default, of those that the heads would take alone, the first in TAIL_ORDER:
            LR-ASPP and SSDLite share "detection", whose last stage is as narrow and whose C4 is SSDLite's.
        output_stride: of the deepest tap; 32 where a head detects, which it needs, else by default the first head's.
        padding: of the backbone's strided convolutions: "symmetric", or "same" as TensorFlow pads.

    Raises:
        InputError: a head has an unknown name or task, does not fit the backbone, or not the other heads.
    """
    if not heads:
        raise InputError("heads: there must be at least one")
    tasks = {name: keywords.get("task", name) for name, keywords in heads.items()}
    for name, task in tasks.items():
        check_choice(f"task of head {name!r}", task, TASKS)
        for key in heads[name].keys() & {*OF_THE_BODY, *SINGLE_ONLY}:
            whose = "the backbone that all heads share" if key in OF_THE_BODY else "a model with one head"
            raise InputError(f"heads.{name}.{key}: is a matter of {whose}; leave it out here")
    own = {name: {k: v for k, v in keywords.items() if k != "task"} for name, keywords in heads.items()}
    segmenting = {name: own[name] for name, task in tasks.items() if task == "segmentation"}
    stride = _output_stride(segmenting, detects="detection" in tasks.values(), asked=output_stride)
    table = backbones.architecture(backbone)
    if tail is None:
        wanted = {default_tail(tasks[name], keywords, table) for name, keywords in own.items()}
        tail = next(name for name in TAIL_ORDER if name in wanted)
    body = {"backbone": backbone, "width": width, "tail": tail, "output_stride": stride, "padding": padding}
    arguments, singles = {}, {}
    for name, keywords in own.items():
        if tasks[name] == "segmentation":
            arguments[name] = body | keywords
            make = seg.create
        else:
            arguments[name] = {key: value for key, value in body.items() if key != "output_stride"} | keywords
            make = det.create
        try:
            singles[name] = make(**arguments[name])
        except InputError as error:
            raise InputError(f"head {name!r} on {backbone}: {error}") from error
    network = backbones.create(
        backbone,
        width=width,
        tail=tail,
        output_stride=stride,
        taps=dict.fromkeys(tap for one in singles.values() for tap in one.taps),
        dilate_strided_block="torchvision" in _variants(segmenting),
        norm_momentum=max(one.backbone.stem.norm.momentum for one in singles.values()),
        padding=padding,
    )
    joint = JointNetwork(network, singles, arguments, body)
    for name, one in singles.items():
        if isinstance(one, det.Detector) and any(side % joint.multiple for side in one.image_size_hw):
            raise InputError(
                f"head {name!r}: its image_size {list(one.image_size_hw)} must be multiples of {joint.multiple}, which "
                "another head needs"
            )
    return joint


def _output_stride(segmenting: Mapping[str, Mapping[str, Any]], *, detects: bool, asked: int | None) -> int:
    """The output stride that all heads can take.

    Raises:
        InputError: there is none.
    """
    if detects:
        if asked not in (None, 32):
            raise InputError(f"output_stride {asked} leaves no features of stride 32, which detection heads take")
        for name, keywords in segmenting.items():
            strides = OUTPUT_STRIDES.get(keywords.get("head", "lraspp"), (32,))  # an unknown head is refused later
            if 32 not in strides:
                raise InputError(
                    f"head {name!r}: {keywords['head']} takes output stride {' or '.join(map(str, strides))}, and "
                    "detection needs 32; take another head, e.g. lraspp or fuse"
                )
        return 32
    if len(_variants(segmenting)) > 1:
        raise InputError("variants paper and torchvision differ in the backbone; give all heads the same variant")
    first = next(iter(segmenting.values()))
    return asked or OUTPUT_STRIDES.get(first.get("head", "lraspp"), (32,))[0]


def _variants(segmenting: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {keywords.get("variant", "paper") for keywords in segmenting.values()}


def default_tail(task: str, keywords: Mapping[str, Any], table: Architecture) -> str:
    """The tail that the single model of a head with these keywords takes by default."""
    if task == "detection":
        return tail_of_detector(keywords.get("head", "ssdlite"), table)
    return tail_of_segmenter(keywords.get("head", "lraspp"), table, keywords.get("variant", "paper"))
