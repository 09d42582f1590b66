"""Experiments as YAML files: every knob with its default and meaning, merged with dotted overrides and checked."""

import argparse
import difflib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backbone.errors import InputError
from tools.io.shipped import find_config

for resolver in ("oc.env", "oc.create", "oc.decode", "oc.deprecated", "oc.select", "oc.dict.keys", "oc.dict.values"):
    OmegaConf.clear_resolver(resolver)  # a config is plain data: it reads no environment and computes nothing


def knob(default: Any, meaning: str) -> Any:
    """A dataclass field with its meaning, which --help prints."""
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"meaning": meaning})
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class SegData:
    root: str = knob("data/cityscapes", "folder with leftImg8bit/ and gtFine/, or of one's own data")
    classes: str | None = knob(None, "classes.yaml of one's own data (see README.md); without it, Cityscapes")
    prepared: str | None = knob(None, "copy that tools.prepare_masks made of data.root, to read from; same samples")
    train_split: str = knob("train", "split to learn from; train_extra with data.train_labels=gtCoarse")
    val_split: str = knob("val", "split to evaluate on")
    train_labels: str = knob("gtFine", "Cityscapes' labels to learn from: gtFine or gtCoarse; validation is on gtFine")
    workers: int = knob(2, "loader processes per training process; 0 loads in the training process")
    val_limit: int | None = knob(None, "evaluate during training on the first N images only")


@dataclass(frozen=True)
class SegModel:
    head: str = knob("lraspp", "lraspp, raspp, deeplabv3plus, fpn, unet, …; an unknown one lists all")
    backbone: str = knob("mobilenet_v3_large", "any network that `python -m tools.summary` lists")
    variant: str = knob("paper", "of lraspp: paper, or torchvision (its numbers and weights)")
    width: float = knob(1.0, "multiplies the backbone's channels")
    tail: str | None = knob(None, "full, detection or segmentation; by default the variant's")
    output_stride: int | None = knob(None, "of the deepest tap: 8, 16 or 32; by default the head's, 16 for lraspp")
    head_channels: int | None = knob(None, "channels inside the head; by default its own, 128 for lraspp")
    pooling: str | None = knob(None, "of lraspp: windows (49x49) or global; by default the variant's")
    dropout: float = knob(0.0, "probability of leaving out a channel before the classifying convolution")
    auxiliary: bool = knob(False, "train a second head at stride 16 beside the first")
    padding: str = knob("symmetric", "of the backbone's strided convolutions: symmetric, or same as TensorFlow pads")
    align_corners: bool = knob(False, "of lraspp: resize maps with aligned corners, as DeepLab's checkpoints need")


@dataclass(frozen=True)
class SegAugment:
    crop_hw: list[int] = knob([768, 768], "height and width of training crops")
    scale: list[float] = knob([0.5, 2.0], "smallest and largest resizing factor")
    brightness: float = knob(0.3, "largest change of brightness")
    contrast: float = knob(0.3, "largest change of contrast")
    saturation: float = knob(0.3, "largest change of saturation")
    hue: float = knob(0.05, "largest change of hue, in turns")


@dataclass(frozen=True)
class SegLoss:
    class_weights: list[float] | None = knob(None, "of cross_entropy and ohem: one number for each class, in order")
    balanced: bool = knob(False, "of cross_entropy and ohem: weights of classes from the training labels' counts")
    label_smoothing: float = knob(0.0, "of cross_entropy: share of the target spread over all classes")
    threshold: float = knob(0.7, "of ohem: pixels whose label has a smaller probability are hard")
    min_kept: int = knob(130000, "of ohem: at least so many pixels of a process's batch, the hardest, count")
    gamma: float = knob(2.0, "of focal: how much easy pixels are left out")
    auxiliary: float = knob(0.4, "factor of the auxiliary head's loss, for model.auxiliary")


@dataclass(frozen=True)
class DetData:
    root: str = knob("data/coco", "folder with annotations/ and one folder of images per split")
    train_split: str = knob("train2017", "split to learn from")
    val_split: str = knob("val2017", "split to evaluate on")
    filter_empty: bool = knob(False, "leave images without boxes out of training, where they are negatives")
    workers: int = knob(2, "loader processes per training process; 0 loads in the training process")


@dataclass(frozen=True)
class DetModel:
    head: str = knob("ssdlite", "ssdlite, or ssdlite_fpn (maps from stride 8 on, merged top-down)")
    backbone: str = knob("mobilenet_v3_large", "a name that tools.summary lists")
    variant: str = knob("paper", "paper (2034 anchors at 320), or torchvision (3234, its numbers and weights)")
    width: float = knob(1.0, "multiplies the channels of the backbone and of ssdlite's extra maps")
    tail: str | None = knob(None, "full, detection or segmentation; by default detection where the backbone has it")
    taps: list[str] | None = knob(None, "maps at strides 16, 32 (ssdlite_fpn: 8, 16, 32); by default the deepest each")
    head_channels: int = knob(128, "channels of the merged maps, ssdlite_fpn only")
    padding: str = knob("symmetric", "of strided convolutions: symmetric, or same as TensorFlow pads")
    image_size: list[int] = knob([320, 320], "height and width of the network's input")
    resize: str = knob("stretch", "how an image becomes the input: stretch, or letterbox (on grey)")


@dataclass(frozen=True)
class DetAugment:
    strength: str = knob("ssd", "ssd (colors, expand, crop, flip), crop (crop, flip), flip, or none")
    mosaic: float = knob(0.0, "share of samples made of four images")
    mixup: float = knob(0.0, "share of samples with a second one laid over them")
    input_scale: list[float] = knob([1.0, 1.0], "each step's input is drawn between these times model.image_size")


@dataclass(frozen=True)
class DetLoss:
    kind: str = knob("softmax", "softmax (hard negatives 3:1), focal (sigmoid) or quality (learns the box's IoU)")
    alpha: float = knob(0.75, "focal: weight of the anchor's class; 0.5 weighs all classes alike")
    gamma: float = knob(2.0, "focal and quality: focusing power")
    box: str = knob("smooth_l1", "of the offsets; or giou, diou, ciou, of the boxes")
    box_weight: float = knob(1.0, "factor of the box loss")


@dataclass(frozen=True)
class BackboneData:
    root: str = knob("data/imagenet", "folder with train/CLASS/ and val/CLASS/, images in them")
    train_split: str = knob("train", "folder to learn from")
    val_split: str = knob("val", "folder to evaluate on")
    workers: int = knob(2, "loader processes per training process; 0 loads in the training process")
    crop_pct: float = knob(0.875, "share of the shorter side that the central crop of an evaluation keeps")


@dataclass(frozen=True)
class BackboneModel:
    name: str = knob("mobilenet_v3_large", "architecture that tools.summary lists, or one in strings")
    width: float = knob(1.0, "multiplies all channels")
    padding: str = knob("symmetric", "symmetric, or same as TensorFlow pads")
    tail: str = knob("full", "full; of MobileNetV3 also detection or segmentation")
    fixed_stem: bool = knob(False, "the stem's channels do not follow the width, as in some published narrow networks")
    hidden: int | None = knob(None, "channels of the hidden layer, 0 for none; by default the architecture's")
    norm_eps: float = knob(1e-3, "epsilon of the norms")
    norm_momentum: float = knob(0.01, "momentum of the norms' running statistics; raise it for short runs")
    dropout: float = knob(0.2, "probability before the output layer")
    drop_path: float = knob(0.0, "stochastic depth: probability of leaving out the last block")
    drop_block: float = knob(0.0, "DropBlock in blocks of stride 16 and 32: probability that the last step reaches")


@dataclass(frozen=True)
class BackboneAugment:
    size: int = knob(224, "height and width of crops, in evaluation too")
    scale: list[float] = knob([0.08, 1.0], "smallest and largest share of the area in a training crop")
    flip: float = knob(0.5, "probability of a mirror image")
    jitter: float = knob(0.0, "largest change of brightness, contrast and saturation")
    policy: str = knob("none", "none, randaugment or autoaugment")
    erase: float = knob(0.0, "probability of random erasing")
    mixup: float = knob(0.0, "alpha of mixup; 0 for none; with cutmix, one of the two per batch")
    cutmix: float = knob(0.0, "alpha of cutmix; 0 for none")


@dataclass(frozen=True)
class BackboneLoss:
    label_smoothing: float = knob(0.1, "share of the target that all classes get")


@dataclass(frozen=True)
class Optim:
    name: str = knob("adamw", "adamw, sgd or rmsprop")
    lr: float = knob(0.002, "highest learning rate")
    lr_for_batch: int | None = knob(None, "lr is meant for this batch and grows with run.batch; by default as given")
    momentum: float = knob(0.9, "of sgd and rmsprop")
    nesterov: bool = knob(False, "Nesterov momentum, for sgd")
    alpha: float = knob(0.9, "decay of rmsprop's mean of squares")
    eps: float = knob(0.0316, "of rmsprop, added to the root; TensorFlow's 0.001, below the root, is about 0.0316 here")
    weight_decay: float = knob(0.01, "of convolution weights; norms and biases have none")
    clip: float = knob(0.0, "largest norm of the gradient; 0 does not clip")
    min_lr: float = knob(0.0, "lowest learning rate: where poly and cosine end, triangular2 and range begin")
    schedule: str = knob("poly", "poly, cosine, step, triangular2 (cyclic), or range (a learning-rate range test)")
    power: float = knob(0.9, "exponent of the poly schedule")
    gamma: float = knob(0.97, "factor of the step schedule, every optim.step_every steps")
    step_every: int = knob(1000, "steps between the step schedule's falls")
    half_cycle: int = knob(1000, "steps from triangular2's lowest rate to its highest, which halves in each cycle")
    warmup: int = knob(100, "steps of linear warm-up")
    ema: float = knob(0.999, "decay of the weight average that is evaluated and kept; 0 for none")


@dataclass(frozen=True)
class Run:
    out: str = knob("runs/experiment", "folder of the run: config.yaml, log.csv, last.pt, best.safetensors, curves.png")
    steps: int = knob(1000, "optimiser steps")
    batch: int = knob(16, "images per step, over all processes")
    seed: int = knob(0, "fixes the order of samples, augmentation, initial weights and dropout")
    eval_every: int = knob(500, "steps between evaluations; the last step is always evaluated")
    save_every: int = knob(500, "steps between writing last.pt")
    log_every: int = knob(20, "steps between log rows")
    precision: str = knob("no", "mixed precision: no, bf16 or fp16")
    channels_last: bool = knob(True, "memory layout; faster on CPUs and tensor cores")
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
        None, "start from this file: a backbone's (ours, torchvision's, timm's) or a whole model's"
    )
    augment: SegAugment = field(default_factory=SegAugment)
    loss: dict[str, float] = knob(
        {"cross_entropy": 1.0}, "losses and their factors: cross_entropy, ohem, dice, jaccard, lovasz, focal"
    )
    loss_settings: SegLoss = field(default_factory=SegLoss)
    mean: list[float] = knob([0.485, 0.456, 0.406], "input normalisation, RGB in 0..1")
    std: list[float] = knob([0.229, 0.224, 0.225], "input normalisation, RGB in 0..1")
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class DetConfig:
    """A detection experiment."""

    data: DetData = field(default_factory=DetData)
    model: DetModel = field(default_factory=DetModel)
    weights: str | None = knob(
        None, "start from this file: a backbone's (ours, torchvision's, timm's) or a whole model's"
    )
    augment: DetAugment = field(default_factory=DetAugment)
    loss: DetLoss = field(default_factory=DetLoss)
    mean: list[float] = knob([0.5, 0.5, 0.5], "input normalisation, RGB in 0..1")
    std: list[float] = knob([0.5, 0.5, 0.5], "input normalisation, RGB in 0..1")
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class BackboneConfig:
    """A classification experiment."""

    data: BackboneData = field(default_factory=BackboneData)
    model: BackboneModel = field(default_factory=BackboneModel)
    weights: str | None = knob(
        None, "start from this file, ours or published; an output layer for other classes begins anew"
    )
    augment: BackboneAugment = field(default_factory=BackboneAugment)
    loss: BackboneLoss = field(default_factory=BackboneLoss)
    mean: list[float] | None = knob(None, "input normalisation, RGB in 0..1; by default the weights', or ImageNet's")
    std: list[float] | None = knob(None, "input normalisation, RGB in 0..1; likewise")
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


AnyConfig = SegConfig | DetConfig | BackboneConfig
Config = TypeVar("Config", SegConfig, DetConfig, BackboneConfig)

LIMITS: dict[str, tuple[float, float]] = {
    "data.workers": (0, 256),
    "data.crop_pct": (0.1, 1),
    "augment.size": (8, 4096),
    "augment.flip": (0, 1),
    "augment.jitter": (0, 10),
    "augment.erase": (0, 1),
    "augment.mixup": (0, 1),
    "augment.cutmix": (0, 1),
    "loss.label_smoothing": (0, 0.99),
    "model.norm_eps": (1e-12, 1),
    "model.norm_momentum": (0, 1),
    "model.dropout": (0, 0.99),
    "model.drop_path": (0, 0.99),
    "model.drop_block": (0, 0.99),
    "model.width": (0.1, 8),
    "model.hidden": (0, 65536),
    "model.head_channels": (1, 4096),
    "loss_settings.label_smoothing": (0, 1),
    "loss_settings.threshold": (1e-6, 1),
    "loss_settings.min_kept": (0, 1e12),
    "loss_settings.gamma": (0, 100),
    "loss_settings.auxiliary": (0, 100),
    "augment.mosaic": (0, 1),
    "loss.alpha": (0, 1),
    "loss.gamma": (0, 10),
    "loss.box_weight": (0, 1e6),
    "optim.lr": (0, 100),
    "optim.lr_for_batch": (1, 65536),
    "optim.momentum": (0, 0.99999),
    "optim.alpha": (0, 0.99999),
    "optim.eps": (1e-12, 1),
    "optim.weight_decay": (0, 1),
    "optim.clip": (0, 1e9),
    "optim.min_lr": (0, 100),
    "optim.power": (0, 10),
    "optim.gamma": (0, 1),
    "optim.step_every": (1, 1e9),
    "optim.half_cycle": (1, 1e9),
    "optim.warmup": (0, 1e9),
    "optim.ema": (0, 0.99999999),
    "run.steps": (1, 1e9),
    "run.batch": (1, 65536),
    "run.seed": (0, 2**32 - 1),
    "run.eval_every": (1, 1e9),
    "run.save_every": (1, 1e9),
    "run.log_every": (1, 1e9),
}
"""Smallest and largest value of numeric keys."""

CHOICES = {
    "data.train_labels": ("gtFine", "gtCoarse"),
    "optim.name": ("sgd", "rmsprop", "adamw"),
    "optim.schedule": ("poly", "cosine", "step", "triangular2", "range"),
    "augment.policy": ("none", "randaugment", "autoaugment"),
    "run.precision": ("no", "bf16", "fp16"),
    "model.padding": ("symmetric", "same"),
    "model.resize": ("stretch", "letterbox"),
    "augment.strength": ("ssd", "crop", "flip", "none"),
    "loss.kind": ("softmax", "focal", "quality_focal"),
    "loss.box": ("smooth_l1", "giou", "diou", "ciou"),
}
"""The values of keys that name one of a few things."""

RANGE_TEST = ("optim.schedule=range", "optim.min_lr=1e-6", "optim.lr=10", "optim.ema=0", "run.steps=200")
"""What --find-lr sets, before the command line's own overrides."""

FREE_ON_RESUME = ("data.workers", "data.prepared", "run.out", "run.save_every", "run.log_every", "run.eval_every")
"""Keys that may change when a run goes on, as they do not change its weights."""


def parse_arguments(kind: type[Config], argv: list[str] | None, tool: str, examples: str) -> tuple[Config, bool] | None:
    """Reads `CONFIG.yaml key=value … [--resume | --find-lr]`: (config, resume), or None after --print-config."""
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
        help=f"a learning-rate range test into run.out/find_lr instead: {' '.join(RANGE_TEST)}",
    )
    parser.add_argument("--print-config", action="store_true", help="print the merged config and stop")
    arguments = parser.parse_intermixed_args(argv)
    config = load(kind, find_config(arguments.config), [*RANGE_TEST * arguments.find_lr, *arguments.overrides])
    if arguments.find_lr:
        config = replace(config, run=replace(config.run, out=str(Path(config.run.out) / "find_lr")))
    if arguments.print_config:
        print(to_yaml(config), end="")
        return None
    return config, arguments.resume


def load(kind: type[Config], path: Path, overrides: list[str]) -> Config:
    """The defaults of `kind`, the file and the overrides merged, in this order.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value has the wrong type.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such config file; see configs/")
    try:
        from_file = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    config = OmegaConf.structured(kind)
    for source, part in [(str(path), from_file), *((text, _override(text)) for text in overrides)]:
        if not OmegaConf.is_dict(part):
            raise InputError(f"{source}: must be a table of keys and values")
        _check_keys(kind(), OmegaConf.to_container(part), source)
        if OmegaConf.select(part, "run.precision") is False:  # YAML reads a bare no as false
            OmegaConf.update(part, "run.precision", "no")
        try:
            config = OmegaConf.merge(config, part)
        except OmegaConfBaseException as error:
            raise InputError(f"{source}: {error.full_key}: {str(error.msg).splitlines()[0]}") from error
    try:
        config = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
    _check_values(flatten(config), str(path))
    return config


def to_yaml(config: AnyConfig) -> str:
    """The whole config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values of a config."""
    values = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            values |= flatten(value, f"{prefix}{entry.name}.")
        else:
            values[prefix + entry.name] = value
    return values


def describe(config: Any, prefix: str = "") -> list[str]:
    """One line per key: name, default and meaning."""
    lines = []
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            lines += describe(value, f"{prefix}{entry.name}.")
        else:
            lines.append(f"  {prefix + entry.name + '=' + _text(value):<44} {entry.metadata['meaning']}")
    return lines


def _override(text: str) -> Any:
    if "=" not in text:
        raise InputError(f"{text}: an override is key=value, e.g. optim.lr=0.02")
    try:
        return OmegaConf.from_dotlist([text])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{text}: not a valid override ({' '.join(str(error).split())})") from error


def _check_keys(known: Any, given: dict, source: str, prefix: str = "") -> None:
    names = {entry.name: getattr(known, entry.name) for entry in fields(known)}
    for key, value in given.items():
        if key not in names:
            everywhere = [*flatten(type(known)(), prefix), *(prefix + name for name in names)]
            close = difflib.get_close_matches(f"{prefix}{key}", everywhere, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"valid here: {', '.join(names)}"
            raise InputError(f"{source}: unknown key {prefix}{key}; {hint}")
        if is_dataclass(names[key]):
            if not isinstance(value, dict):
                raise InputError(f"{source}: {prefix}{key} is a section; give {prefix}{key}.KEY=value")
            _check_keys(names[key], value, source, f"{prefix}{key}.")


def _check_values(values: dict[str, Any], source: str) -> None:
    for key, (low, high) in LIMITS.items():
        if values.get(key) is not None and not low <= values[key] <= high:
            raise InputError(f"{source}: {key} is {values[key]}; it must lie between {low:g} and {high:g}")
    for key, valid in CHOICES.items():
        if key in values and values[key] not in valid:
            raise InputError(f"{source}: {key} is {values[key]!r}; valid: {', '.join(valid)}")
    for key, length in (
        ("mean", 3),
        ("std", 3),
        ("augment.crop_hw", 2),
        ("model.image_size", 2),
        ("augment.scale", 2),
        ("augment.input_scale", 2),
    ):
        value = values.get(key)
        if value is not None and (len(value) != length or (key != "mean" and min(value) <= 0)):
            raise InputError(f"{source}: {key} is {value}; it takes {length} numbers above 0")


def _text(value: Any) -> str:
    return "" if value is None or value is MISSING else str(value).replace(" ", "")
