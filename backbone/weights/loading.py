"""Reads weight files and loads them strictly; finds the network that a published classifier's weights are of."""

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from backbone.architectures.plan import ARCHITECTURES, Plan, plan, tails, with_tail
from backbone.errors import InputError
from backbone.network import Classifier, Network, classifier
from backbone.weights import keras as keras_weights
from backbone.weights import tensorflow_checkpoint
from backbone.weights.description import read_header
from backbone.weights.layouts import recognise, torchvision_names
from backbone.weights.names import resolve
from backbone.weights.preprocessing import Preprocessing, Source, published_name, published_preprocessing
from backbone.weights.translation import NORM, Layout, Triple

__all__ = [
    "NORM",
    "Pretrained",
    "expected_preprocessing",
    "from_weights",
    "load_strictly",
    "load_weights",
    "read_weights",
    "torchvision_names",
]

BODY = ("stem.", "blocks.", "last.")
HEAD = ("hidden.", "hidden_norm.", "output.", "head.")
"""How names begin that a bare body leaves: a classifier's, and the heads of our other models."""

GIT_LFS = b"version https://git-lfs"
WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.1, 1.2, 1.25, 1.3, 1.4, 1.5, 2.0)
"""The widths of published networks; `from_weights` looks no further."""

TIMM_EPS_OF_TENSORFLOW = ("mobilenet_v3_large_rw", "fbnet_c")
"""timm's published files with a norm epsilon of 1e-3 and symmetric padding; the tf_ ones have SAME padding with it."""


def read_weights(source: Source) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, of a .pt or .pth file (also below "model" or "state_dict"), or of a mapping.

    Wherever a file may stand, a name of published weights may (`names.resolve`), which is fetched if it is not here.
    Those of Keras' .h5 files are numbered by layer (`keras_weights.read`). Of a TensorFlow checkpoint any of its files
    may be given, or what their names begin with (`tensorflow_checkpoint.read`).

    Raises:
        InputError: the file is missing, unreadable, holds something else than tensors, or would run code when loaded.
    """
    return read_described(source)[0]


def read_described(source: Source) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what the file says of its model: our description, or at most "classes"."""
    source = resolve(source)
    description: dict[str, Any] = {}
    if isinstance(source, Mapping):
        state = dict(source)
    else:
        path = Path(source)
        checkpoint = tensorflow_checkpoint.prefix(path)
        _refuse_tensorflow(path, checkpoint)
        if not path.is_file() and checkpoint is None:
            raise InputError(
                f"{path}: no such weights file; give a .safetensors, .pt or .pth file or a name that "
                "python -m tools.weights lists"
            )
        with open(path if checkpoint is None else f"{checkpoint}.index", "rb") as file:
            if file.read(len(GIT_LFS)) == GIT_LFS:
                raise InputError(f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` where it came from")
        try:
            if checkpoint is not None:
                state = tensorflow_checkpoint.read(checkpoint)
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                    description = read_header(file.metadata(), str(path))
            elif path.suffix in keras_weights.ENDINGS:
                state = keras_weights.read(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except InputError:
            raise
        except Exception as error:  # whatever the readers raise for a damaged or hostile file
            if type(error).__name__ == "UnpicklingError":  # torch's text advises to let the file run code
                reason = "damaged or would run code: give a state dict of tensors"
            else:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{path}: cannot be read as weights ({reason}); is the file complete?") from error
    if isinstance(state, Mapping) and (classes := _class_names(state.get("meta"))):
        description = {"classes": classes}
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = dict(state[key])
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{_name(source)}: holds no table of tensors; give a state dict of the whole model")
    return {key.removeprefix("module."): value for key, value in state.items()}, description


def _refuse_tensorflow(path: Path, checkpoint: Path | None) -> None:
    """Raises an InputError for what comes with a TensorFlow checkpoint but is not one, saying what to give."""
    if path.name.endswith((".tar.gz", ".tgz", ".tar", ".zip")):
        raise InputError(f"{path}: an archive; unpack it and give what is in it, of TensorFlow's the .index file")
    if path.suffix in (".pb", ".pbtxt", ".tflite"):
        raise InputError(f"{path}: a TensorFlow graph; give the checkpoint beside it, its .index file")
    if path.is_dir():
        found = ", ".join(sorted(file.name for file in path.glob("*.index"))[:3])
        raise InputError(f"{path}: a folder; give a file in it" + (f", as {found}" if found else ""))
    if checkpoint is None and tensorflow_checkpoint.FILE.search(path.name):
        raise InputError(f"{path}: the checkpoint's .index is missing; keep its files beside each other")


def _class_names(meta: object) -> list[str]:
    """The class names in mmpretrain's "meta", of either generation; empty where there are none."""
    if not isinstance(meta, Mapping):
        return []
    inner = meta.get("dataset_meta")
    return list(inner.get("classes") or []) if isinstance(inner, Mapping) else list(meta.get("CLASSES") or [])


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, unbuilt: frozenset[str] = frozenset()
) -> None:
    """Copies `state` into `model`; every name and shape must agree, but for names in `unbuilt`, which may be left over.

    Raises:
        InputError: names the missing, unexpected and misshapen tensors; the model is then unchanged.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own and key not in unbuilt]
    misshapen = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if faults:
        raise InputError(f"{source}: does not fit this model: {'; '.join(faults)}; build the model the weights are of")
    model.load_state_dict({key: state[key] for key in own})


class Pretrained(NamedTuple):
    """What `from_weights` found in a checkpoint."""

    classifier: Classifier
    name: str  # of the architecture
    width: float
    layout: str  # whose names the weights had; "taproot": ours
    mean: Triple  # this and the next four are the images that the weights expect, as `published.Inputs` says
    std: Triple
    size: int
    crop_pct: float
    interpolation: str
    classes: list[str]  # names, where the weights tell them, else numbers
    arguments: dict[str, Any]  # the keywords of `network.classifier` that build it


def from_weights(source: Source, *, padding: str | None = None, norm_eps: float | None = None) -> Pretrained:
    """The classifier that a checkpoint is of, with its weights: architecture, width, classes and head are found in it.

    What tools.convert_weights wrote says all that itself.

    Arguments:
        padding: of timm's weights, which do not tell. By default "same" for minimalistic networks and for files whose
            name, or that in the config.json beside them, begins with "tf_", "symmetric" for all others.
        norm_eps: of timm's weights. By default 1e-3 with SAME padding, for FBNet-C and for mobilenetv3_rw, else 1e-5.
    Raises:
        InputError: the layout is unknown or cannot be reproduced, or no architecture has these channels.
    """
    source = resolve(source)
    layout, description = _recognise(source)
    if description.get("task", "classification") != "classification":
        raise InputError(f"{_name(source)}: is a model for {description['task']}; tools.predict.load takes it")
    if layout.padding is not None and padding not in (None, layout.padding):
        raise InputError(f"{_name(source)}: {layout.name}'s weights have {layout.padding} padding, not {padding!r}")
    if "model" in description:
        arguments = description["model"]
        model = classifier(**arguments)
        _load(model, layout, source=_name(source), norm_eps=norm_eps)
        found = arguments["name"], arguments["width"]
        return Pretrained(model, *found, layout.name, *_described(description), description["classes"], arguments)
    name, width, tail, fixed_stem = _find_architecture(layout, _name(source))
    padding = padding or _padding(layout, name, source) or "symmetric"
    hidden = layout.state.get("hidden.weight")
    output = layout.state.get("output.weight")
    if output is None:
        raise InputError(f"{_name(source)}: has no output layer; build the body with create and use load_weights")
    arguments = {
        "name": name,
        "num_classes": len(output),
        "width": width,
        "tail": tail,
        "in_channels": layout.state["stem.conv.weight"].shape[1],
        "hidden": 0 if hidden is None else len(hidden),
        "fixed_stem": fixed_stem,
        "padding": padding,
        "norm_eps": norm_eps or _norm_eps(layout, name, padding) or 1e-3,
    }
    model = classifier(**arguments)
    _load(model, layout, source=_name(source), norm_eps=norm_eps)
    inputs = published_preprocessing(layout, name, padding, source)
    classes = description.get("classes", [])
    if len(classes) != len(output):
        classes = [str(number) for number in range(len(output))]
    return Pretrained(model, name, width, layout.name, *inputs, classes, arguments)


def expected_preprocessing(source: Source) -> Preprocessing:
    """The images that weights expect, of one of our models or a published classifier or body.

    Raises:
        InputError: the layout is unknown or cannot be reproduced, or no architecture has these channels.
    """
    source = resolve(source)
    layout, description = _recognise(source)
    if "mean" in description:
        return _described(description)
    name = _find_architecture(layout, _name(source)).name
    return published_preprocessing(layout, name, _padding(layout, name, source), source)


def expected_padding(source: Source) -> str | None:
    """The padding that the weights of a classifier, a body or one of our models were trained with.

    It is None where nothing tells, which is so for bare files in our names; timm's files count as symmetric unless
    their name, or that in the config.json beside them, begins with "tf_".

    Raises:
        InputError: the layout is unknown or cannot be reproduced, or no architecture has these channels.
    """
    source = resolve(source)
    layout, _ = _recognise(source)
    if layout.name == "timm":
        return _padding(layout, _find_architecture(layout, _name(source)).name, source) or "symmetric"
    return layout.padding


def _described(description: dict[str, Any]) -> Preprocessing:
    """What one of our files says; those of segmenters and detectors say no size."""
    said = {key: description[key] for key in Preprocessing._fields if key in description}
    return Preprocessing(**said)._replace(mean=tuple(description["mean"]), std=tuple(description["std"]))


def load_weights(
    model: Network | Classifier, source: Source, *, norm_eps: float | None = None, keep_output: bool = False
) -> str:
    """Loads a published or own checkpoint, recognised by its names, and returns the name of its layout.

    A bare network takes the body out of a classifier's checkpoint, and out of any of our models; a network cut at its
    deepest tap leaves what lies beyond it. Layouts: ours, and those of classifiers of torchvision, timm, mmpretrain,
    Keras, TF-slim, efficientnet_lite_pytorch, 1e100, d-li14 and Randl. Where the weights were trained with another norm
    epsilon than the model's, the norms' scales are adapted, so that the evaluated numbers are theirs.

    Arguments:
        norm_eps: the epsilon that timm's weights were trained with; by default as in `from_weights`.
        keep_output: leave a classifier's output layer as it is, for other classes than the checkpoint's.
    Raises:
        InputError: the layout is unknown, the model's padding or place of squeeze-and-excite is not the weights', or a
            tensor is missing, left over or of another shape.
    """
    source = resolve(source)
    layout, _ = _recognise(source)
    network = model.backbone if isinstance(model, Classifier) else model
    padding = _padding(layout, network.name, source)
    if padding not in (None, network.padding):
        raise InputError(
            f"{_name(source)}: {layout.name}'s weights need padding={padding!r}, the model has {network.padding!r}; "
            "build it so, or use from_weights"
        )
    if layout.squeezed_first not in (None, network.architecture.squeeze.before_activation):
        wanted = (
            "mobilenet_v3_…_se_before_activation"
            if layout.squeezed_first
            else "one that is not called _se_before_activation"
        )
        raise InputError(
            f"{_name(source)}: {layout.name}'s weights and {network.name} differ in the place of squeeze-and-excite; "
            f"build {wanted}"
        )
    if keep_output:
        own = {f"output.{key}": value for key, value in model.output.state_dict().items()}
        layout = layout._replace(state=layout.state | own)
    try:
        _load(model, layout, source=_name(source), norm_eps=norm_eps)
    except InputError as error:
        try:
            found = _find_architecture(layout, _name(source))
        except InputError:
            raise error from None
        raise InputError(f"{error}: {_settings(found, layout)}") from None
    return layout.name


def _settings(found: "_Found", layout: Layout) -> str:
    """The keywords of `classifier` that a checkpoint needs, for an error."""
    hidden = layout.state.get("hidden.weight")
    in_channels = layout.state["stem.conv.weight"].shape[1]
    return (
        f"name={found.name} width={found.width:g} tail={found.tail} fixed_stem={str(found.fixed_stem).lower()}"
        f"{'' if hidden is None else f' hidden={len(hidden)}'}"
        f"{'' if in_channels == 3 else f' in_channels={in_channels}'}"
    )


def _load(model: Network | Classifier, layout: Layout, *, source: str, norm_eps: float | None) -> None:
    network = model.backbone if isinstance(model, Classifier) else model
    state = layout.state
    eps = norm_eps or _norm_eps(layout, network.name, network.padding)
    if eps is not None and eps != network.stem.norm.eps:
        state = _with_norm_eps(state, eps, network.stem.norm.eps)
    prefix = "backbone." if isinstance(model, Classifier) else ""
    state = {(prefix if key.startswith(BODY) else "") + key: value for key, value in state.items()}

    unbuilt = {prefix + name for name in _body_names(network.plan)}
    if isinstance(model, Network):
        unbuilt |= {key for key in state if key.startswith(HEAD)}
    load_strictly(model, state, source=source, unbuilt=frozenset(unbuilt))


def _recognise(source: Source) -> tuple[Layout, dict[str, Any]]:
    """The layout of a file or state dict, with what the file says of its model."""
    state, description = read_described(source)
    layout = recognise(state, _name(source))
    if layout.name == "timm" and re.search(r"conv_(aa|blur)_", published_name(source)):
        raise InputError(f"{_name(source)}: timm's network blurs before its strides, which no architecture here does")
    model = description.get("model", {})
    if layout.name == "taproot" and model:
        name = model.get("name", model.get("backbone"))  # of a classifier, or of a segmenter or detector
        layout = layout._replace(
            padding=model.get("padding"),
            norm_eps=model.get("norm_eps"),
            squeezed_first=ARCHITECTURES[name].squeeze.before_activation if name in ARCHITECTURES else None,
        )
    return layout, description


def _padding(layout: Layout, name: str, source: Source) -> str | None:
    """The padding that the weights were trained with; None where nothing tells."""
    if layout.name == "timm" and (published_name(source).startswith("tf_") or name.endswith("_minimalistic")):
        return "same"
    return layout.padding


def _norm_eps(layout: Layout, name: str, padding: str) -> float | None:
    """The epsilon that the weights were trained with; None where it is the model's own matter."""
    if layout.name == "timm" and (padding == "same" or name in TIMM_EPS_OF_TENSORFLOW):
        return 1e-3
    return layout.norm_eps


def _with_norm_eps(state: dict[str, Tensor], theirs: float, ours: float) -> dict[str, Tensor]:
    """Scales norms so that with epsilon `ours` they give what they gave with `theirs`."""
    state = dict(state)
    for key, variance in state.items():
        scale = key.removesuffix("running_var") + "weight"
        if key.endswith(".running_var") and scale in state:
            state[scale] = state[scale] * ((variance + ours) / (variance + theirs)).sqrt()
    return state


def _body_names(plan: Plan) -> set[str]:
    """The names of all tensors of a body, built or not."""
    layers = ["stem"] + ["last"] * bool(plan.last)
    names = set()
    for number, block in enumerate(plan.blocks, start=1):
        parts = ["project"]
        kernels = {"start": block.start_kernel, "expand": block.expand_kernel, "depthwise": block.depthwise_kernel}
        parts += [part for part, kernel in kernels.items() if kernel]
        layers += [f"blocks.{number}.{part}" for part in parts]
        if block.squeezed:
            inner = (f"blocks.{number}.squeeze_excite.{layer}" for layer in ("reduce", "expand"))
            names |= {f"{layer}.{value}" for layer in inner for value in ("weight", "bias")}
    names |= {f"{layer}.conv.weight" for layer in layers}
    return names | {f"{layer}.norm.{value}" for layer in layers for value in NORM}


class _Found(NamedTuple):
    """The architecture that weights are of."""

    name: str
    width: float
    tail: str
    fixed_stem: bool


def _find_architecture(layout: Layout, source: str) -> _Found:
    """Compares channels and kernels of a checkpoint with those of every architecture."""
    state = layout.state

    def size(key: str, axis: int) -> int:
        return state[key].shape[axis] if key in state else 0

    blocks = []
    while any(key.startswith(f"blocks.{len(blocks) + 1}.") for key in state):
        block = f"blocks.{len(blocks) + 1}"
        kernels = [size(f"{block}.{part}.conv.weight", 2) for part in ("start", "expand", "depthwise")]
        out, expanded = (size(f"{block}.project.conv.weight", axis) for axis in (0, 1))
        blocks.append((*kernels, expanded, out, size(f"{block}.squeeze_excite.reduce.weight", 0)))
    wanted = (size("stem.conv.weight", 0), blocks, size("last.conv.weight", 0))
    # Width by width, since EfficientNet-Lite2 has the channels that Lite1 would have at 1.1.
    for width, (name, table) in product(WIDTHS, ARCHITECTURES.items()):
        if len(table.rows) != len(blocks) or table.squeeze.before_activation != bool(layout.squeezed_first):
            continue
        for found in (_Found(name, width, *choice) for choice in product(tails(table), (False, True))):
            candidate = plan(with_tail(table, found.tail), width=found.width, fixed_stem=found.fixed_stem)
            shapes = [
                (b.start_kernel, b.expand_kernel, b.depthwise_kernel, b.expanded, b.out, b.squeezed)
                for b in candidate.blocks
            ]
            if (candidate.features["stem"].channels, shapes, candidate.last) == wanted:
                return found
    raise InputError(
        f"{source}: {len(blocks)} blocks with channels that no known architecture has at widths "
        f"{', '.join(map(str, sorted(WIDTHS)))}; build the network yourself and use load_weights"
    )


def _name(source: Source) -> str:
    return "state dict" if isinstance(source, Mapping) else str(source)
