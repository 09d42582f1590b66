"""Experiments as YAML files: every knob with its default and meaning, merged with dotted overrides and checked."""

import argparse
import difflib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backbone.errors import InputError

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
    prepared: str | None = knob(
        None, "copy that tools.prepare_cityscapes made of data.root, to read from; same samples"
    )
    train_split: str = knob("train", "split to learn from; train_extra with data.train_labels=gtCoarse")
    val_split: str = knob("val", "split to evaluate on")
    train_labels: str = knob("gtFine", "Cityscapes' labels to learn from: gtFine or gtCoarse; validation is on gtFine")
    workers: int = knob(2, "loader processes per training process; 0 loads in the training process")
    val_limit: int | None = knob(None, "evaluate during training on the first N pictures only")


@dataclass(frozen=True)
class SegModel:
    head: str = knob("lraspp", "segmentation head")
    backbone: str = knob("mobilenet_v3_large", "mobilenet_v3_large or mobilenet_v3_small")
    variant: str = knob("paper", "paper, or torchvision (its numbers and weights)")
    width: float = knob(1.0, "multiplies the backbone's channels")
    tail: str | None = knob(None, "full, detection or segmentation; by default the variant's")
    output_stride: int = knob(16, "of the deeper tap: 8, 16 or 32")
    filters: int = knob(128, "channels inside the head")


@dataclass(frozen=True)
class SegAugment:
    crop_hw: list[int] = knob([768, 768], "height and width of training crops")
    scale: list[float] = knob([0.5, 2.0], "smallest and largest resizing factor")
    brightness: float = knob(0.3, "largest change of brightness")
    contrast: float = knob(0.3, "largest change of contrast")
    saturation: float = knob(0.3, "largest change of saturation")
    hue: float = knob(0.05, "largest change of hue, in turns")


@dataclass(frozen=True)
class DetData:
    root: str = knob("data/coco", "folder with annotations/ and one folder of pictures per split")
    train_split: str = knob("train2017", "split to learn from")
    val_split: str = knob("val2017", "split to evaluate on")
    workers: int = knob(2, "loader processes per training process; 0 loads in the training process")


@dataclass(frozen=True)
class DetModel:
    head: str = knob("ssdlite", "detection head")
    backbone: str = knob("mobilenet_v3_large", "mobilenet_v3_large or mobilenet_v3_small")
    variant: str = knob("paper", "paper (2034 anchors at 320), or torchvision (3234, its numbers and weights)")
    width: float = knob(1.0, "multiplies the backbone's channels")
    tail: str | None = knob(None, "full, detection or segmentation; by default detection")
    image_size: list[int] = knob([320, 320], "height and width the pictures are stretched to")


@dataclass(frozen=True)
class DetAugment:
    strength: str = knob("ssd", "ssd (colours, expand, crop, flip), flip, or none")


@dataclass(frozen=True)
class DetLoss:
    kind: str = knob("softmax", "softmax (hard negatives 3:1) or focal (sigmoid, alpha 0.75, gamma 2)")


@dataclass(frozen=True)
class BackboneData:
    root: str = knob("data/imagenet", "folder with train/CLASS/ and val/CLASS/, pictures in them")
    train_split: str = knob("train", "folder to learn from")
    val_split: str = knob("val", "folder to evaluate on")
    workers: int = knob(2, "loader processes per training process; 0 loads in the training process")
    crop_pct: float = knob(0.875, "share of the shorter side that the central crop of an evaluation keeps")


@dataclass(frozen=True)
class BackboneModel:
    name: str = knob("mobilenet_v3_large", "architecture; tools.summary lists them")
    width: float = knob(1.0, "multiplies all channels")
    padding: str = knob("symmetric", "symmetric, or same as TensorFlow pads")
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
    lr: float = knob(0.002, "highest learning rate, for the batch size as given")
    momentum: float = knob(0.9, "of sgd and rmsprop")
    nesterov: bool = knob(False, "Nesterov momentum, for sgd")
    weight_decay: float = knob(0.01, "of convolution weights; norms and biases have none")
    clip: float = knob(0.0, "largest norm of the gradient; 0 does not clip")
    lr_low: float = knob(0.0, "lowest learning rate: where poly and cosine end, triangular2 and range begin")
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
    batch: int = knob(16, "pictures per step, over all processes")
    seed: int = knob(0, "fixes the order of samples, augmentation, initial weights and dropout")
    eval_every: int = knob(500, "steps between evaluations; the last step is always evaluated")
    save_every: int = knob(500, "steps between writing last.pt")
    log_every: int = knob(20, "steps between log rows")
    precision: str = knob("no", "mixed precision: no, bf16 or fp16")
    channels_last: bool = knob(True, "memory layout; faster on CPUs and tensor cores")
    compile: bool = knob(False, "torch.compile the model; needs a C++ compiler")
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
    loss: dict[str, float] = knob({"cross_entropy": 1.0}, "losses and their factors: cross_entropy, dice")
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
    mean: list[float] = knob([0.485, 0.456, 0.406], "input normalisation, RGB in 0..1")
    std: list[float] = knob([0.229, 0.224, 0.225], "input normalisation, RGB in 0..1")
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
    "augment.mixup": (0, 100),
    "augment.cutmix": (0, 100),
    "loss.label_smoothing": (0, 0.99),
    "model.norm_eps": (1e-12, 1),
    "model.norm_momentum": (0, 1),
    "model.dropout": (0, 0.99),
    "model.drop_path": (0, 0.99),
    "model.drop_block": (0, 0.99),
    "model.width": (0.1, 8),
    "model.filters": (1, 4096),
    "optim.lr": (0, 100),
    "optim.momentum": (0, 0.99999),
    "optim.weight_decay": (0, 1),
    "optim.clip": (0, 1e9),
    "optim.lr_low": (0, 100),
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
    "augment.strength": ("ssd", "flip", "none"),
    "loss.kind": ("softmax", "focal"),
}
"""The values of keys that name one of a few things."""

FREE_ON_RESUME = ("data.workers", "data.prepared", "run.out", "run.save_every", "run.log_every", "run.eval_every")
"""Keys that may change when a run goes on, as they do not change its weights."""


def parse_arguments(kind: type[Config], argv: list[str] | None, tool: str, examples: str) -> tuple[Config, bool] | None:
    """Reads `CONFIG.yaml key=value … [--resume]` and returns (config, resume), or None after --print-config."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tools.{tool}",
        description=examples,
        epilog="keys, defaults and meanings:\n" + "\n".join(describe(kind())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="YAML file; see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, e.g. optim.lr=0.02")
    parser.add_argument("--resume", action="store_true", help="go on from last.pt in run.out")
    parser.add_argument("--print-config", action="store_true", help="print the merged config and stop")
    arguments = parser.parse_intermixed_args(argv)
    config = load(kind, arguments.config, arguments.overrides)
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
        if key in values and not low <= values[key] <= high:
            raise InputError(f"{source}: {key} is {values[key]}; it must lie between {low:g} and {high:g}")
    for key, valid in CHOICES.items():
        if key in values and values[key] not in valid:
            raise InputError(f"{source}: {key} is {values[key]!r}; valid: {', '.join(valid)}")
    for key, length in (("mean", 3), ("std", 3), ("augment.crop_hw", 2), ("model.image_size", 2), ("augment.scale", 2)):
        if key in values and (len(values[key]) != length or (key != "mean" and min(values[key]) <= 0)):
            raise InputError(f"{source}: {key} is {values[key]}; it takes {length} numbers above 0")


def _text(value: Any) -> str:
    return "" if value is None or value is MISSING else str(value).replace(" ", "")
