"""Experiments as YAML files: every knob with its default, meaning and limits, merged with dotted overrides.

Nothing here imports torch, so that `--help` and the refusal of a wrong key come at once.
"""

import argparse
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from omegaconf import OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from backbone.architectures.definitions import parse
from backbone.architectures.plan import ARCHITECTURES, tails
from backbone.data import more
from backbone.errors import InputError
from backbone.options import PADDINGS, POLICIES
from det import options as det_options
from seg import options as seg_options
from tools.io.shipped import find_config

for resolver in ("oc.env", "oc.create", "oc.decode", "oc.deprecated", "oc.select", "oc.dict.keys", "oc.dict.values"):
    OmegaConf.clear_resolver(resolver)  # a config is plain data: it reads no environment and computes nothing


class Rule(NamedTuple):
    """What a knob's value must keep to; None, an unset knob, always may stand."""

    meaning: str
    limits: tuple[float, float] | None  # smallest and largest number: of the value, of each in a list or mapping
    choices: Sequence[Any] | None  # the values that there are; of a mapping, the keys; of a list, each of it
    length: int | None  # of a list
    check: Callable[[Any], None] | None  # raises InputError for a value that cannot be


def knob(
    default: Any,
    meaning: str,
    *,
    limits: tuple[float, float] | None = None,
    choices: Sequence[Any] | None = None,
    length: int | None = None,
    check: Callable[[Any], None] | None = None,
) -> Any:
    """A dataclass field with its meaning, which --help prints, and its `Rule`."""
    metadata = {"rule": Rule(meaning, limits, choices, length, check)}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def check_architecture(value: str) -> None:
    """Refuses what is neither the name of an architecture nor a network in strings.

    Raises:
        InputError: the message suggests the nearest name and lists all, or says where a string is wrong.
    """
    if "_k" in value:  # every string says its kernel, no name does
        parse(value)
    elif value not in ARCHITECTURES:
        raise InputError(f"{value!r} is no architecture; {_suggest(value, sorted(ARCHITECTURES))}")


def check_freeze(value: str) -> None:
    """Refuses what names no part of a network that can be frozen; which blocks there are, the network says.

    Raises:
        InputError: the message lists what there is.
    """
    if value not in ("body", "stem") and not (value.isdecimal() and int(value) > 0):
        raise InputError(f"{value!r} is no part of a network; valid: body, stem, or the number of a block")


TAILS = sorted({tail for architecture in ARCHITECTURES.values() for tail in tails(architecture)})
"""The last stages that some architecture has; which ones a given architecture has, its table says."""

JOINT_HEADS = ("segmentation", "detection")
"""Heads that a joint network may be trained with."""

COUNT = (1, 1e9)
SHARE = (0, 1)
BELOW_1 = (0, 0.99)
WIDTH = (0.1, 8)
MEAN = (0, 1)
STD = (1e-6, 1e3)

TRACKERS = ("tensorboard", "wandb", "mlflow")
"""What `run.trackers` may list."""

LR, LR_FROM_WEIGHTS = 0.002, 0.001
"""The learning rates of `optim.lr` left null, from scratch and from weights."""


def workers_knob() -> Any:
    """`data.workers`, as each task has it."""
    return knob(2, "loader processes per training process; 0 loads in the training process", limits=(0, 256))


def damaged_knob() -> Any:
    """`data.damaged`, as each task has it."""
    return knob(
        "error",
        "what a damaged training image does: error ends the run, skip takes another in its place (0.1 % at most)",
        choices=("error", "skip"),
    )


def leave_out_knob() -> Any:
    """`data.leave_out`, as each task has it."""
    return knob(
        None, "text file of training images to leave out, one a line, below data.root; the check commands write it"
    )


def backbone_knob() -> Any:
    """`model.backbone`, as each task with a head has it."""
    return knob("mobilenet_v3_large", "any network that `python -m tools.summary` lists", check=check_architecture)


def padding_knob() -> Any:
    """`model.padding`, as each task has it."""
    return knob(
        None,
        "of the backbone's strided convolutions: symmetric, or same as TensorFlow pads; by default the weights', else "
        "the architecture's",
        choices=PADDINGS,
    )


def mean_knob(default: str = "ImageNet's") -> Any:
    """`mean`, as each task has it; `default` says what it is without weights."""
    meaning = f"input normalisation, RGB in 0..1; by default the weights', else {default}"
    return knob(None, meaning, limits=MEAN, length=3)


def std_knob() -> Any:
    """`std`, as each task has it."""
    return knob(None, "input normalisation, RGB in 0..1; likewise", limits=STD, length=3)


def teacher_knob() -> Any:
    """`teacher`, as each task has it."""
    return knob(
        None, "learn from this trained model too, a larger one of the same classes: its weights file, or a name"
    )


def segmentation_loss_knob() -> Any:
    """`loss` of a segmenter."""
    return knob(
        {"cross_entropy": 1.0},
        "losses and their factors: cross_entropy, ohem, dice, jaccard, lovasz, focal",
        limits=(0, 1e6),
        choices=seg_options.LOSSES,
    )


@dataclass(frozen=True)
class SegSource:
    root: str = knob("data/cityscapes", "folder with leftImg8bit/ and gtFine/, or of one's own data")
    classes: str | None = knob(None, "classes.yaml of one's own data (see docs/own-data.md); without it, Cityscapes")
    prepared: str | None = knob(None, "copy that tools.prepare_masks made of data.root, to read from; same samples")
    train_split: str = knob("train", "split to learn from; train_extra with data.train_labels=gtCoarse")
    val_split: str = knob("val", "split to evaluate on")
    train_labels: str = knob(
        "gtFine",
        "Cityscapes' labels to learn from: gtFine or gtCoarse; validation is on gtFine",
        choices=("gtFine", "gtCoarse"),
    )
    leave_out: str | None = leave_out_knob()
    val_limit: int | None = knob(None, "evaluate during training on the first N images only", limits=COUNT)


@dataclass(frozen=True)
class SegData(SegSource):
    workers: int = workers_knob()
    damaged: str = damaged_knob()


@dataclass(frozen=True)
class SegHead:
    head: str = knob(
        "lraspp", "lraspp, raspp, deeplabv3plus, fpn, unet, …; an unknown one lists all", choices=seg_options.HEADS
    )
    variant: str = knob(
        "paper",
        "of lraspp: paper, torchvision or paddle (their numbers and weights)",
        choices=seg_options.VARIANTS,
    )
    head_channels: int | None = knob(
        None, "channels inside the head; by default its own, 128 for lraspp", limits=(1, 4096)
    )
    pooling: str | None = knob(
        None, "of lraspp: windows (49x49) or global; by default the variant's", choices=seg_options.POOLINGS
    )
    dropout: float = knob(
        0.0, "probability of leaving out a channel before the classifying convolution", limits=BELOW_1
    )


@dataclass(frozen=True)
class SegModel(SegHead):
    backbone: str = backbone_knob()
    width: float = knob(1.0, "multiplies the backbone's channels", limits=WIDTH)
    tail: str | None = knob(None, "full, detection or segmentation; by default the variant's", choices=TAILS)
    output_stride: int | None = knob(
        None, "of the deepest tap: 8, 16 or 32; by default the head's, 16 for lraspp", choices=(8, 16, 32)
    )
    auxiliary: bool = knob(False, "train a second head at stride 16 beside the first")
    padding: str | None = padding_knob()
    align_corners: bool = knob(False, "of lraspp: resize maps with aligned corners, as DeepLab's checkpoints need")


@dataclass(frozen=True)
class SegAugment:
    crop_hw: list[int] = knob([768, 768], "height and width of training crops", limits=(1, 65536), length=2)
    scale: list[float] = knob([0.5, 2.0], "smallest and largest resizing factor", limits=(1e-3, 1e3), length=2)
    brightness: float = knob(0.3, "largest change of brightness", limits=SHARE)
    contrast: float = knob(0.3, "largest change of contrast", limits=SHARE)
    saturation: float = knob(0.3, "largest change of saturation", limits=SHARE)
    hue: float = knob(0.05, "largest change of hue, in turns", limits=(0, 0.5))
    more: list[Any] = knob([], "transforms of albumentations by name, after all others: [{name: RandomRain, p: 0.1}]")


@dataclass(frozen=True)
class SegLoss:
    class_weights: list[float] | None = knob(
        None, "of cross_entropy and ohem: one number for each class, in order", limits=(0, 1e9)
    )
    balanced: bool = knob(False, "of cross_entropy and ohem: weights of classes from the training labels' counts")
    label_smoothing: float = knob(0.0, "of cross_entropy: share of the target spread over all classes", limits=SHARE)
    threshold: float = knob(0.7, "of ohem: pixels whose label has a smaller probability are hard", limits=(1e-6, 1))
    min_kept: int = knob(
        130000, "of ohem: at least so many pixels of a process's batch, the hardest, count", limits=(0, 1e12)
    )
    gamma: float = knob(2.0, "of focal: how much easy pixels are left out", limits=(0, 100))
    auxiliary: float = knob(0.4, "factor of the auxiliary head's loss, for model.auxiliary", limits=(0, 100))


@dataclass(frozen=True)
class SegDistill:
    weight: float = knob(1.0, "factor of the loss against the teacher's logits", limits=(1e-6, 1e6))
    temperature: float = knob(1.0, "above 1 softens the two distributions before they are compared", limits=(0.1, 100))


@dataclass(frozen=True)
class DetSource:
    root: str = knob("data/coco", "folder with annotations/ and one folder of images per split")
    train_split: str = knob("train2017", "split to learn from")
    val_split: str = knob("val2017", "split to evaluate on")
    filter_empty: bool = knob(False, "leave images without boxes out of training, where they are negatives")
    leave_out: str | None = leave_out_knob()


@dataclass(frozen=True)
class DetData(DetSource):
    workers: int = workers_knob()
    damaged: str = damaged_knob()


@dataclass(frozen=True)
class DetHead:
    head: str = knob(
        "ssdlite",
        "ssdlite, ssdlite_fpn (maps from stride 8 on, merged top-down), pico96 or pico128 (PicoDet's)",
        choices=det_options.HEADS,
    )
    variant: str = knob(
        "paper",
        "paper (2034 anchors at 320), torchvision (3234, its numbers and weights), or paddle (2434, likewise)",
        choices=det_options.VARIANTS,
    )
    taps: list[str] | None = knob(None, "maps at strides 16, 32 (others: 8, 16, 32); by default the deepest each")
    head_channels: int = knob(128, "channels of the merged maps, ssdlite_fpn only", limits=(1, 4096))
    image_size: list[int] = knob([320, 320], "height and width of the network's input", limits=(1, 65536), length=2)
    resize: str = knob(
        "stretch", "how an image becomes the input: stretch, or letterbox (on grey)", choices=det_options.RESIZES
    )


@dataclass(frozen=True)
class DetModel(DetHead):
    backbone: str = backbone_knob()
    width: float = knob(1.0, "multiplies the channels of the backbone and of ssdlite's extra maps", limits=WIDTH)
    tail: str | None = knob(
        None, "full, detection or segmentation; by default detection where the backbone has it", choices=TAILS
    )
    padding: str | None = padding_knob()
    one_to_one: bool = knob(False, "of the pico heads: train predictors beside the others whose boxes need no NMS")


@dataclass(frozen=True)
class DetAugment:
    strength: str = knob(
        "ssd", "ssd (colors, expand, crop, flip), crop (crop, flip), flip, or none", choices=det_options.STRENGTHS
    )
    mosaic: float = knob(0.0, "share of samples made of four images", limits=SHARE)
    mixup: float = knob(0.0, "share of samples with a second one laid over them", limits=SHARE)
    input_scale: list[float] = knob(
        [1.0, 1.0], "each step's input is drawn between these times model.image_size", limits=(0.01, 100), length=2
    )
    more: list[Any] = knob([], "transforms of albumentations by name, after all others: [{name: RandomRain, p: 0.1}]")


@dataclass(frozen=True)
class DetLoss:
    kind: str | None = knob(
        None,
        "softmax (hard negatives 3:1), focal (sigmoid), quality_focal (learns the box's IoU); aligned, for pico heads; "
        "by default softmax or aligned, as the head needs",
        choices=det_options.LOSS_KINDS,
    )
    alpha: float = knob(0.75, "focal: weight of the anchor's class; 0.5 weighs all classes alike", limits=SHARE)
    gamma: float = knob(2.0, "focal and quality: focusing power", limits=(0, 10))
    box: str | None = knob(
        None,
        "smooth_l1, of the offsets; or giou, diou, ciou, of the boxes; by default smooth_l1, giou for aligned",
        choices=det_options.BOX_LOSSES,
    )
    box_weight: float | None = knob(None, "factor of the box loss; by default 1, 2.5 for aligned", limits=(0, 1e6))


@dataclass(frozen=True)
class DetDistill:
    weight: float = knob(1.0, "factor of the losses against the teacher's scores and boxes", limits=(1e-6, 1e6))


@dataclass(frozen=True)
class BackboneData:
    root: str = knob("data/imagenet", "folder with train/CLASS/ and val/CLASS/, images in them")
    train_split: str = knob("train", "folder to learn from")
    val_split: str = knob("val", "folder to evaluate on")
    workers: int = workers_knob()
    damaged: str = damaged_knob()
    leave_out: str | None = leave_out_knob()
    crop_pct: float = knob(
        0.875, "share of the shorter side that the central crop of an evaluation keeps", limits=(0.1, 1)
    )


@dataclass(frozen=True)
class BackboneModel:
    name: str = knob(
        "mobilenet_v3_large", "architecture that tools.summary lists, or one in strings", check=check_architecture
    )
    width: float = knob(1.0, "multiplies all channels", limits=WIDTH)
    padding: str | None = padding_knob()
    tail: str = knob("full", "full; of MobileNetV3 also detection or segmentation", choices=TAILS)
    fixed_stem: bool = knob(False, "the stem's channels do not follow the width, as in some published narrow networks")
    hidden: int | None = knob(
        None, "channels of the hidden layer, 0 for none; by default the architecture's", limits=(0, 65536)
    )
    norm_eps: float = knob(1e-3, "epsilon of the norms", limits=(1e-12, 1))
    norm_momentum: float = knob(
        0.01, "momentum of the norms' running statistics; raise it for short runs", limits=SHARE
    )
    dropout: float = knob(0.2, "probability before the output layer", limits=BELOW_1)
    drop_path: float = knob(0.0, "stochastic depth: probability of leaving out the last block", limits=BELOW_1)
    drop_block: float = knob(
        0.0, "DropBlock in blocks of stride 16 and 32: probability that the last step reaches", limits=BELOW_1
    )


@dataclass(frozen=True)
class BackboneAugment:
    size: int = knob(224, "height and width of crops, in evaluation too", limits=(8, 4096))
    scale: list[float] = knob(
        [0.08, 1.0], "smallest and largest share of the area in a training crop", limits=(1e-3, 1), length=2
    )
    flip: float = knob(0.5, "probability of a mirror image", limits=SHARE)
    jitter: float = knob(0.0, "largest change of brightness, contrast and saturation", limits=(0, 10))
    policy: str = knob("none", "none, randaugment or autoaugment", choices=POLICIES)
    erase: float = knob(0.0, "probability of random erasing", limits=SHARE)
    mixup: float = knob(0.0, "alpha of mixup; 0 for none; with cutmix, one of the two per batch", limits=SHARE)
    cutmix: float = knob(0.0, "alpha of cutmix; 0 for none", limits=SHARE)


@dataclass(frozen=True)
class BackboneLoss:
    label_smoothing: float = knob(0.1, "share of the target that all classes get", limits=BELOW_1)


@dataclass(frozen=True)
class Optim:
    name: str = knob("adamw", "adamw, sgd or rmsprop", choices=("sgd", "rmsprop", "adamw"))
    lr: float | None = knob(
        None, f"highest learning rate; by default {LR}, with weights {LR_FROM_WEIGHTS}", limits=(0, 100)
    )
    backbone_lr: float | None = knob(
        None, "factor of the backbone's learning rate, below 1 for pretrained layers; by default 1", limits=(0, 100)
    )
    lr_for_batch: int | None = knob(
        None, "lr is meant for this batch and grows with run.batch; by default as given", limits=(1, 65536)
    )
    momentum: float = knob(0.9, "of sgd and rmsprop", limits=(0, 0.99999))
    nesterov: bool = knob(False, "Nesterov momentum, for sgd")
    alpha: float = knob(0.9, "decay of rmsprop's mean of squares", limits=(0, 0.99999))
    eps: float = knob(
        0.0316,
        "of rmsprop, added to the root; TensorFlow's 0.001, below the root, is about 0.0316 here",
        limits=(1e-12, 1),
    )
    weight_decay: float = knob(0.01, "of convolution weights; norms and biases have none", limits=SHARE)
    clip: float = knob(0.0, "largest norm of the gradient; 0 does not clip", limits=(0, 1e9))
    min_lr: float = knob(
        0.0, "lowest learning rate: where poly and cosine end and triangular2 and a range test begin", limits=(0, 100)
    )
    schedule: str = knob(
        "poly",
        "poly, cosine, step or triangular2 (cyclic)",
        choices=("poly", "cosine", "step", "triangular2"),
    )
    power: float = knob(0.9, "exponent of the poly schedule", limits=(0, 10))
    gamma: float = knob(0.97, "factor of the step schedule, every optim.step_every steps", limits=SHARE)
    step_every: int = knob(1000, "steps between the step schedule's falls", limits=COUNT)
    half_cycle: int = knob(
        1000, "steps from triangular2's lowest rate to its highest, which halves in each cycle", limits=COUNT
    )
    warmup: int = knob(100, "steps of linear warm-up, a quarter of run.steps at most", limits=(0, 1e9))
    ema: float = knob(
        0.999, "decay of the weight average that is evaluated and kept; 0 for none", limits=(0, 0.99999999)
    )


@dataclass(frozen=True)
class Run:
    out: str = knob("runs/experiment", "folder of the run: config.yaml, log.csv, last.pt, best.safetensors, curves.png")
    steps: int = knob(1000, "optimiser steps", limits=COUNT)
    batch: int = knob(16, "images per step, over all processes", limits=(1, 65536))
    accumulate: int = knob(
        1, "parts that each process takes its share of the batch in, to save memory; norms see a part", limits=(1, 4096)
    )
    oom: str = knob(
        "error",
        "when a GPU's memory runs out: error ends the run; reduce doubles run.accumulate and makes the step again (in "
        "one process)",
        choices=("error", "reduce"),
    )
    freeze: str | None = knob(
        None,
        "layers that keep the weights' values and statistics: body, stem, or up to the block of this number",
        check=check_freeze,
    )
    freeze_steps: int | None = knob(
        None, "thaw them after so many steps, with a warm-up of their own; by default never", limits=COUNT
    )
    seed: int = knob(0, "fixes the order of samples, augmentation, initial weights and dropout", limits=(0, 2**32 - 1))
    eval_every: int = knob(500, "steps between evaluations; the last step is always evaluated", limits=COUNT)
    patience: int | None = knob(
        None, "end the run after so many evaluations in a row without a better score; by default never", limits=COUNT
    )
    keep_best: int = knob(
        0, "keep the weights of so many of the best evaluations in best/, for tools.average", limits=(0, 1000)
    )
    save_every: int = knob(500, "steps between writing last.pt", limits=COUNT)
    log_every: int = knob(20, "steps between log rows", limits=COUNT)
    samples: int = knob(
        4,
        "validation images of which each evaluation draws truth and prediction into samples/; not of classifiers",
        limits=(0, 1000),
    )
    trackers: list[str] = knob(
        ["tensorboard"], "what the run reports to besides log.csv: tensorboard, wandb, mlflow", choices=TRACKERS
    )
    precision: str = knob("no", "mixed precision: no, bf16 or fp16", choices=("no", "bf16", "fp16"))
    channels_last: bool = knob(True, "memory layout; faster on CPUs and tensor cores")
    threads: int | None = knob(
        None,
        "threads of the training process on a CPU; by default torch's, which OMP_NUM_THREADS sets",
        limits=(1, 1024),
    )
    compile: bool = knob(
        False, "torch.compile model and loss as one (over several processes the model); needs a C++ compiler"
    )
    sync_norm: bool = knob(False, "batch statistics over all GPU processes")


@dataclass(frozen=True)
class SegConfig:
    """A segmentation experiment."""

    data: SegData = field(default_factory=SegData)
    model: SegModel = field(default_factory=SegModel)
    weights: str | None = knob(
        None, "start from this file, or from a name that tools.weights lists: a backbone's or a whole model's"
    )
    augment: SegAugment = field(default_factory=SegAugment)
    loss: dict[str, float] = segmentation_loss_knob()
    loss_settings: SegLoss = field(default_factory=SegLoss)
    teacher: str | None = teacher_knob()
    distill: SegDistill = field(default_factory=SegDistill)
    mean: list[float] | None = mean_knob()
    std: list[float] | None = std_knob()
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class DetConfig:
    """A detection experiment."""

    data: DetData = field(default_factory=DetData)
    model: DetModel = field(default_factory=DetModel)
    weights: str | None = knob(
        None, "start from this file, or from a name that tools.weights lists: a backbone's or a whole model's"
    )
    augment: DetAugment = field(default_factory=DetAugment)
    loss: DetLoss = field(default_factory=DetLoss)
    teacher: str | None = teacher_knob()
    distill: DetDistill = field(default_factory=DetDistill)
    mean: list[float] | None = mean_knob("0.5")
    std: list[float] | None = std_knob()
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class BackboneConfig:
    """A classification experiment."""

    data: BackboneData = field(default_factory=BackboneData)
    model: BackboneModel = field(default_factory=BackboneModel)
    weights: str | None = knob(
        None,
        "start from this file, ours or published, or from a name that tools.weights lists; an output layer for other "
        "classes is re-initialised",
    )
    augment: BackboneAugment = field(default_factory=BackboneAugment)
    loss: BackboneLoss = field(default_factory=BackboneLoss)
    mean: list[float] | None = mean_knob()
    std: list[float] | None = std_knob()
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class JointData:
    workers: int = workers_knob()
    damaged: str = damaged_knob()


@dataclass(frozen=True)
class JointModel:
    backbone: str = backbone_knob()
    heads: list[str] = knob(["segmentation", "detection"], "those that the network has", choices=JOINT_HEADS)
    width: float = knob(1.0, "multiplies the backbone's channels", limits=WIDTH)
    tail: str | None = knob(
        None, "full, detection or segmentation; by default the one that suits both heads", choices=TAILS
    )
    padding: str | None = padding_knob()


@dataclass(frozen=True)
class BoxSource(DetSource):
    layout: str = knob(
        "coco",
        "coco, or cityscapes: boxes around the instances of a Cityscapes tree, splits train and val",
        choices=("coco", "cityscapes"),
    )


@dataclass(frozen=True)
class JointSegmentation:
    """The segmentation head of a joint network, its data and its loss."""

    weight: float = knob(
        1.0, "factor of the head's loss; 0 keeps the head as in the weights, without data", limits=(0, 1e6)
    )
    data: SegSource = field(default_factory=SegSource)
    model: SegHead = field(default_factory=SegHead)
    augment: SegAugment = field(default_factory=SegAugment)
    loss: dict[str, float] = segmentation_loss_knob()
    loss_settings: SegLoss = field(default_factory=SegLoss)


@dataclass(frozen=True)
class JointDetection:
    """The detection head of a joint network, its data and its loss."""

    weight: float = knob(
        1.0, "factor of the head's loss; 0 keeps the head as in the weights, without data", limits=(0, 1e6)
    )
    batch: int | None = knob(
        None, "images of run.batch that are this head's, the others are segmentation's; by default half", limits=COUNT
    )
    data: BoxSource = field(default_factory=BoxSource)
    model: DetHead = field(default_factory=DetHead)
    augment: DetAugment = field(default_factory=DetAugment)
    loss: DetLoss = field(default_factory=DetLoss)


@dataclass(frozen=True)
class JointConfig:
    """An experiment with one network for segmentation and detection."""

    data: JointData = field(default_factory=JointData)
    model: JointModel = field(default_factory=JointModel)
    segmentation: JointSegmentation = field(default_factory=JointSegmentation)
    detection: JointDetection = field(default_factory=JointDetection)
    weights: str | None = knob(
        None,
        "start from a backbone's file or name, from a joint network's or a single model's file, or from a segmenter's "
        "and a detector's of one backbone: a.safetensors,b.safetensors",
    )
    best: dict[str, float] = knob(
        {"miou": 1.0, "AP": 1.0},
        "which weights are kept: those with the best mean of miou and AP, by these factors",
        limits=(0, 1e6),
        choices=("miou", "AP"),
    )
    compare_gradients: int = knob(
        100, "steps between rows that compare the heads' gradients on the backbone; 0 for never", limits=(0, 1e9)
    )
    mean: list[float] | None = mean_knob()
    std: list[float] | None = std_knob()
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


AnyConfig = SegConfig | DetConfig | BackboneConfig | JointConfig
Config = TypeVar("Config", SegConfig, DetConfig, BackboneConfig, JointConfig)

RANGE_TEST = ("optim.min_lr=1e-6", "optim.lr=10", "optim.ema=0", "run.steps=200", "run.trackers=[tensorboard]")
"""What --find-lr sets, before the command line's own overrides."""

FREE_ON_RESUME = (
    "data.workers",
    "data.prepared",
    "data.damaged",
    "teacher",
    "run.out",
    "run.save_every",
    "run.log_every",
    "run.eval_every",
    "run.oom",
    "run.samples",
    "run.trackers",
)
"""Keys that may change when a run goes on, as they do not change its weights; a teacher is known by its file's hash."""

SETTLED = ("model.padding", "model.tail", "mean", "std", "optim.lr", "optim.backbone_lr")
"""Keys that a new run settles where they are null (`pretrained.settle`); a resumed one takes what was settled."""


class Arguments(NamedTuple, Generic[Config]):
    """A training tool's command line."""

    config: Config
    resume: bool  # go on from last.pt
    extend: bool  # where run.steps has grown
    find_lr: bool  # a learning-rate range test instead of a training
    replay: bool  # only the step after last.pt, to find what is not finite in it
    dry_run: bool  # the first steps and an evaluation, to estimate what the whole takes


def parse_arguments(
    kind: type[Config], argv: list[str] | None, tool: str, examples: str | None
) -> Arguments[Config] | None:
    """Reads `CONFIG.yaml key=value …` and what to do with it; None after --print-config.

    Raises:
        InputError: what `load` raises; a range test's rates cannot be.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m tools.{tool}",
        description=examples,
        epilog="keys, defaults and meanings:\n" + "\n".join(describe(kind())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML file; see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, e.g. optim.lr=0.02")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on from last.pt in run.out")
    how.add_argument(
        "--find-lr",
        action="store_true",
        help="a learning-rate range test from optim.min_lr to optim.lr into run.out/find_lr instead; first sets "
        + " ".join(RANGE_TEST),
    )
    how.add_argument(
        "--replay",
        action="store_true",
        help="run the step after last.pt again, save nothing, and name the tensor that is first not finite",
    )
    how.add_argument(
        "--dry-run",
        action="store_true",
        help="the first steps and an evaluation in a temporary folder, to estimate the whole run's time, memory, disk",
    )
    parser.add_argument("--extend", action="store_true", help="with --resume: go on to a larger run.steps")
    parser.add_argument("--print-config", action="store_true", help="print the merged config and stop")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.extend and not arguments.resume:
        parser.error("--extend makes a run that goes on longer; give --resume too")
    config = load(kind, find_config(arguments.config), [*RANGE_TEST * arguments.find_lr, *arguments.overrides])
    if arguments.find_lr:
        config = replace(config, run=replace(config.run, out=str(Path(config.run.out) / "find_lr")))
        lowest, highest = config.optim.min_lr, config.optim.lr or 0
        if not 0 < lowest < highest:
            raise InputError(f"optim.min_lr {lowest:g} must lie between 0 and optim.lr {highest:g} for a range test")
    if arguments.print_config:
        print(to_yaml(config), end="")
        return None
    return Arguments(config, arguments.resume, arguments.extend, arguments.find_lr, arguments.replay, arguments.dry_run)


def load(kind: type[Config], path: Path, overrides: list[str]) -> Config:
    """The defaults of `kind`, the file and the overrides merged, in this order.

    A mapping that is given whole, as `loss: {ohem: 1}`, replaces the one before; `loss.ohem=1` adds to it.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is of the wrong type or breaks its rule.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such config file; see configs/")
    try:
        from_file = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    merged: Any = OmegaConf.structured(kind)
    mappings = [key for key, value in flatten(kind()).items() if isinstance(value, dict)]
    parts = [(str(path), "", from_file), *((text, text.partition("=")[0], _override(text)) for text in overrides)]
    for source, dotted, part in parts:
        if not OmegaConf.is_dict(part):
            raise InputError(f"{source}: must be a table of keys and values")
        _check_keys(kind(), OmegaConf.to_container(part), source)
        if OmegaConf.select(part, "run.precision") is False:  # YAML reads a bare no as false
            OmegaConf.update(part, "run.precision", "no")
        whole = [key for key in mappings if OmegaConf.select(part, key) is not None]
        whole = [key for key in whole if not dotted.startswith(f"{key}.")]
        merged = _merge(merged, part, whole, source)
        _check_values(OmegaConf.to_object(merged), source)
    config: Any = OmegaConf.to_object(merged)
    for prefix, part, size_hw in _augmented(config):
        more.check(part.augment.more, size_hw, f"{path}: {prefix}augment.more")
    if kind in (SegConfig, DetConfig) and config.teacher is None and config.distill != type(config.distill)():
        raise InputError(f"{path}: distill says how to learn from a teacher; give teacher too")
    if config.run.freeze is not None and config.weights is None:
        raise InputError(f"{path}: run.freeze keeps layers as weights made them; give weights too")
    if config.run.freeze_steps is not None and config.run.freeze is None:
        raise InputError(f"{path}: run.freeze_steps says when run.freeze ends; give run.freeze too")
    return config


def _augmented(config: Any) -> list[tuple[str, Any, tuple[int, int]]]:
    """The sections with `augment.more`: prefix of their keys, section, and the size of image that training makes."""
    if isinstance(config, BackboneConfig):
        return []
    if isinstance(config, JointConfig):
        parts = [("segmentation.", config.segmentation), ("detection.", config.detection)]
    else:
        parts = [("", config)]
    found = []
    for prefix, part in parts:
        height, width = part.augment.crop_hw if isinstance(part.augment, SegAugment) else part.model.image_size
        found.append((prefix, part, (height, width)))
    return found


def to_yaml(config: AnyConfig) -> str:
    """The whole config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flatten(config: Any) -> dict[str, Any]:
    """Dotted keys and values of a config."""
    return {key: value for key, value, _ in _knobs(config)}


def describe(config: Any) -> list[str]:
    """One line per key: name, default and meaning."""
    return [f"  {key + '=' + _text(value):<44} {rule.meaning}" for key, value, rule in _knobs(config)]


def _knobs(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Rule]]:
    """Dotted key, value and rule of every knob of a config or of one of its sections, as they are defined."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            yield from _knobs(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, value, entry.metadata["rule"]


def _override(text: str) -> Any:
    if "=" not in text:
        raise InputError(f"{text}: an override is key=value, e.g. optim.lr=0.02")
    try:
        return OmegaConf.from_dotlist([text])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{text}: not a valid override ({' '.join(str(error).split())})") from error


def _merge(config: Any, part: Any, whole: list[str], source: str) -> Any:
    """The config with the keys of `part` changed and the mappings `whole` replaced; a wrong type is an InputError."""
    try:
        config = OmegaConf.merge(config, part)
        with read_write(config):
            for key in whole:
                OmegaConf.update(config, key, OmegaConf.select(part, key), merge=False)
        OmegaConf.to_object(config)  # finds references to other keys that lead nowhere
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise InputError(f"{source}: {key}{str(error.msg).splitlines()[0]}") from error
    return config


def _check_keys(known: Any, given: Any, source: str, prefix: str = "") -> None:
    names = {entry.name: getattr(known, entry.name) for entry in fields(known)}
    for key, value in given.items():
        if key not in names:
            everywhere = [*(dotted for dotted, _, _ in _knobs(known, prefix)), *(prefix + name for name in names)]
            close = difflib.get_close_matches(f"{prefix}{key}", everywhere, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"valid here: {', '.join(names)}"
            raise InputError(f"{source}: unknown key {prefix}{key}; {hint}")
        if is_dataclass(names[key]):
            if not isinstance(value, dict):
                raise InputError(f"{source}: {prefix}{key} is a section; give {prefix}{key}.KEY=value")
            _check_keys(names[key], value, source, f"{prefix}{key}.")


def _check_values(config: Any, source: str) -> None:
    for key, value, rule in _knobs(config):
        if value is not None:
            try:
                _check_value(key, value, rule)
            except InputError as error:
                raise InputError(f"{source}: {error}") from error


def _check_value(key: str, value: Any, rule: Rule) -> None:
    """Holds a value against its rule; of a mapping, the keys are what is chosen and the values are the numbers."""
    if isinstance(value, dict):
        valid = rule.choices or ()
        for name in value:
            if name not in valid:
                raise InputError(f"{key}.{name} is unknown; {_suggest(name, valid)}")
    elif rule.choices is not None:
        for one in value if isinstance(value, list) else [value]:
            if one not in rule.choices:
                raise InputError(f"{key} is {one!r}; {_suggest(one, rule.choices)}")
    if rule.length is not None and len(value) != rule.length:
        raise InputError(f"{key} is {value}; it takes {rule.length} numbers")
    if rule.limits is not None:
        low, high = rule.limits
        for name, number in _numbers(key, value):
            if not low <= number <= high:  # NaN is refused too
                raise InputError(f"{name} is {number}; it must lie between {low:g} and {high:g}")
    if rule.check is not None:
        try:
            rule.check(value)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error


def _numbers(key: str, value: Any) -> list[tuple[str, float]]:
    """The numbers in a value, each with what to call it."""
    if isinstance(value, dict):
        return [(f"{key}.{name}", number) for name, number in value.items()]
    if isinstance(value, list):
        return [(f"a number of {key}", number) for number in value]
    return [(key, value)]


def _suggest(value: Any, valid: Sequence[Any]) -> str:
    names = [str(name) for name in valid]
    close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    return f"{f'did you mean {close[0]}? ' if close else ''}valid: {', '.join(names)}"


def _text(value: Any) -> str:
    return "" if value is None or value is MISSING else str(value).replace(" ", "")
