"""Reads weight files and loads them strictly; finds the network that a published classifier's weights are of."""

import re
import zipfile
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
from backbone.weights import paddle, tensorflow_checkpoint
from backbone.weights.description import read_header
from backbone.weights.layouts import recognise
from backbone.weights.names import resolve
from backbone.weights.preprocessing import Preprocessing, published_name, published_preprocessing
from backbone.weights.refusals import Source, require_settings, source_name
from backbone.weights.translation import NORM, Layout, Triple

BODY = ("stem.", "blocks.", "last.")
HEAD = ("hidden.", "hidden_norm.", "output.", "head.")
"""Prefixes of the tensors that a bare body ignores: a classifier's last layers, and the heads of our other models."""

GIT_LFS = b"version https://git-lfs"
WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.1, 1.2, 1.25, 1.3, 1.4, 1.5, 2.0)
"""The widths of published networks, which are all that `from_weights` tries."""

TIMM_EPS_OF_TENSORFLOW = ("mobilenet_v3_large_rw", "fbnet_c")
"""timm's published files with a norm epsilon of 1e-3 and symmetric padding; the tf_ ones have SAME padding with it."""


def read_weights(source: Source) -> dict[str, Tensor]:
    """The tensors of a weights file, by name; of a state dict, the same tensors.

    Files may be .safetensors, .pt or .pth (also with the state dict below "model" or "state_dict"), Keras' .h5, whose
    layers are numbered (`keras.read`), Paddle's .pdparams, or a TensorFlow checkpoint, given by any of its files or by
    their common prefix (`tensorflow_checkpoint.read`). The prefix "module." of distributed training is taken off.
    Wherever a file may stand, so may a name of published weights (`names.resolve`), which are fetched if they are not
    on this machine.

    Raises:
        InputError: the file is missing, unreadable, holds anything but tensors, or would run code when loaded.
    """
    return read_described(source)[0]


def read_described(source: Source) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`read_weights`, and what the file says of its model: our description; of mmpretrain's files, "classes"."""
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
            elif path.suffix == paddle.ENDING:
                state = paddle.read(path)
            elif is_compressed(path):
                raise InputError(
                    f"{path}: its archive is compressed, as torch writes none; give the file as it was saved"
                )
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
        inner = state.get(key) if isinstance(state, Mapping) else None
        if isinstance(inner, Mapping):
            state = dict(inner)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{source_name(source)}: holds no table of tensors; give a state dict of the whole model")
    return {key.removeprefix("module."): value for key, value in state.items()}, description


def is_compressed(path: Path) -> bool:
    """Whether a file is an archive with compressed records: torch's are not, and a small one could fill the memory.

    Raises:
        zipfile.BadZipFile: it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist())


def _refuse_tensorflow(path: Path, checkpoint: Path | None) -> None:
    """Refuses the files that lie beside a TensorFlow checkpoint and are none, saying which one to give."""
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
    """The class names in the "meta" of mmpretrain 1.x or of mmcls; empty where there are none."""
    if not isinstance(meta, Mapping):
        return []
    inner = meta.get("dataset_meta")
    return list(inner.get("classes") or []) if isinstance(inner, Mapping) else list(meta.get("CLASSES") or [])


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, unbuilt: frozenset[str] = frozenset()
) -> None:
    """Copies a state dict into a model; all names and shapes must agree.

    Arguments:
        source: the file's name, for errors.
        unbuilt: names that may be left over: layers of the architecture that this model does not build.

    Raises:
        InputError: names the missing, unexpected and misshapen tensors; the model is unchanged.
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
        raise InputError(f"{source}: does not fit this model: {'; '.join(faults)}; build the model that they belong to")
    model.load_state_dict({key: state[key] for key in own})


class Pretrained(NamedTuple):
    """What `from_weights` found in a checkpoint."""

    classifier: Classifier
    name: str  # of the architecture
    width: float
    layout: str  # whose names the tensors had; "taproot": ours
    mean: Triple  # this and the next four: the images that the weights expect, as in `Preprocessing`
    std: Triple
    size: int
    crop_pct: float
    interpolation: str
    classes: list[str]  # names where the file has them, else numbers
    arguments: dict[str, Any]  # the keywords of `network.classifier` that build the classifier


def from_weights(source: Source, *, padding: str | None = None, norm_eps: float | None = None) -> Pretrained:
    """Builds the classifier that a checkpoint belongs to, and loads it.

    Architecture, width, number of classes and head are recognised from the tensors' names and shapes; files of our own
    say them in their header.

    Arguments:
        source: a weights file or a state dict.
        padding: what timm's weights were trained with, which their tensors do not tell. By default "same" for
            minimalistic networks and where the name, of the file or in the config.json beside it, begins with "tf_";
            "symmetric" for all others.
        norm_eps: likewise. By default 1e-3 with SAME padding, for FBNet-C and for mobilenetv3_rw, else 1e-5.

    Raises:
        InputError: the layout is unknown or cannot be reproduced, or no architecture has these channels.
    """
    source = resolve(source)
    layout, description = _recognise(source)
    file = source_name(source)
    if description.get("task", "classification") != "classification":
        raise InputError(f"{file}: is a model for {description['task']}; tools.predict.load takes it")
    if layout.padding is not None and padding not in (None, layout.padding):
        raise InputError(f"{file}: {layout.name}'s weights have {layout.padding} padding, not {padding!r}")
    if "model" in description:
        arguments = description["model"]
        model = classifier(**arguments)
        _load(model, layout, source=file, norm_eps=norm_eps)
        found = arguments["name"], arguments["width"]
        return Pretrained(model, *found, layout.name, *_described(description), description["classes"], arguments)
    name, width, tail, fixed_stem = _find_architecture(layout, file)
    padding = padding or _padding(layout, name, source) or "symmetric"
    hidden = layout.state.get("hidden.weight")
    output = layout.state.get("output.weight")
    if output is None:
        raise InputError(f"{file}: has no output layer; build the body with create and use load_weights")
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
    _load(model, layout, source=file, norm_eps=norm_eps)
    inputs = published_preprocessing(layout, name, padding, source)
    classes = description.get("classes", [])
    if len(classes) != len(output):
        classes = [str(number) for number in range(len(output))]
    return Pretrained(model, name, width, layout.name, *inputs, classes, arguments)


def expected_preprocessing(source: Source, *, name: str | None = None) -> Preprocessing:
    """The images that weights expect, be they of one of our models or of a published classifier or body.

    Arguments:
        source: a weights file or a state dict.
        name: of the weights' architecture, where it is known; by default it is recognised by its channels.

    Raises:
        InputError: the layout is unknown or cannot be reproduced, or no architecture has these channels.
    """
    source = resolve(source)
    layout, description = _recognise(source)
    if "mean" in description:
        return _described(description)
    name = name or _find_architecture(layout, source_name(source)).name
    return published_preprocessing(layout, name, _padding(layout, name, source), source)


def expected_padding(source: Source, *, name: str | None = None) -> str | None:
    """The padding that the weights of a classifier, a body or one of our models were trained with.

    It is None where nothing tells, which is so for bare files in our names; timm's files count as symmetric unless
    their name, or that in the config.json beside them, begins with "tf_". The arguments are those of
    `expected_preprocessing`.

    Raises:
        InputError: the layout is unknown or cannot be reproduced, or no architecture has these channels.
    """
    source = resolve(source)
    layout, _ = _recognise(source)
    if layout.name == "timm":
        name = name or _find_architecture(layout, source_name(source)).name
        return _padding(layout, name, source) or "symmetric"
    return layout.padding


def _described(description: dict[str, Any]) -> Preprocessing:
    """The images that one of our files says it expects; files of segmenters and detectors leave out the size."""
    said = {key: description[key] for key in Preprocessing._fields if key in description}
    return Preprocessing(**said)._replace(mean=tuple(description["mean"]), std=tuple(description["std"]))


def load_weights(
    model: Network | Classifier, source: Source, *, norm_eps: float | None = None, keep_output: bool = False
) -> str:
    """Loads a checkpoint, recognised by its tensors' names.

    Layouts: ours, and those of classifiers of torchvision, timm, mmpretrain, Keras, TF-slim, efficientnet_lite_pytorch,
    PaddleClas, 1e100, d-li14 and Randl. A bare network takes the body from a classifier's checkpoint or from any of our
    models; a network that ends at its deepest tap ignores the layers beyond it. Where the weights were trained with
    another norm epsilon than the model has, the norms' scales are adapted, so that outputs in evaluation mode are the
    original's.

    Arguments:
        model: is left as it was where the weights do not fit.
        source: a weights file or a state dict.
        norm_eps: the epsilon that timm's weights were trained with; by default as in `from_weights`.
        keep_output: keep the classifier's own output layer, for other classes than the checkpoint's.

    Returns:
        The name of the layout, "taproot" for ours.

    Raises:
        InputError: the layout is unknown, the model has another padding or place of squeeze-and-excite than the
            weights, or a tensor is missing, left over or of another shape.
    """
    source = resolve(source)
    layout, _ = _recognise(source)
    file = source_name(source)
    network = model.backbone if isinstance(model, Classifier) else model
    padding = _padding(layout, network.name, source)
    built = {"padding": network.padding}
    require_settings({"padding": padding}, built, layout=layout.name, source=file)
    if layout.se_before_activation not in (None, network.architecture.squeeze.before_activation):
        wanted = (
            "mobilenet_v3_…_se_before_activation"
            if layout.se_before_activation
            else "one that is not called _se_before_activation"
        )
        raise InputError(
            f"{file}: {layout.name}'s weights and {network.name} differ in the place of squeeze-and-excite; "
            f"build {wanted}"
        )
    if keep_output and isinstance(model, Classifier):
        own = {f"output.{key}": value for key, value in model.output.state_dict().items()}
        layout = layout._replace(state=layout.state | own)
    try:
        _load(model, layout, source=file, norm_eps=norm_eps)
    except InputError as error:
        try:
            found = _find_architecture(layout, file)
        except InputError:
            raise error from None
        raise InputError(f"{error}: {_settings(found, layout)}") from None
    return layout.name


def _settings(found: "_Found", layout: Layout) -> str:
    """The keywords of `classifier` that build a checkpoint's model, for an error."""
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
        state = with_norm_eps(state, eps, network.stem.norm.eps)
    prefix = "backbone." if isinstance(model, Classifier) else ""
    state = {(prefix if key.startswith(BODY) else "") + key: value for key, value in state.items()}

    unbuilt = {prefix + name for name in _body_names(network.plan)}
    if isinstance(model, Network):
        unbuilt |= {key for key in state if key.startswith(HEAD)}
    load_strictly(model, state, source=source, unbuilt=frozenset(unbuilt))


def _recognise(source: Source) -> tuple[Layout, dict[str, Any]]:
    """The layout of a file or state dict, and the description of its model where the file has one."""
    state, description = read_described(source)
    file = source_name(source)
    layout = recognise(state, file)
    if layout.name == "timm" and re.search(r"conv_(aa|blur)_", published_name(source)):
        raise InputError(f"{file}: timm's network blurs before its strides, which no architecture here does")
    model = description.get("model", {})
    if layout.name == "taproot" and model:
        name = model.get("name", model.get("backbone"))  # of a classifier, or of a segmenter or detector
        layout = layout._replace(
            padding=model.get("padding"),
            norm_eps=model.get("norm_eps"),
            se_before_activation=ARCHITECTURES[name].squeeze.before_activation if name in ARCHITECTURES else None,
        )
    return layout, description


def _padding(layout: Layout, name: str, source: Source) -> str | None:
    """The padding that weights were trained with; None if unknown."""
    if layout.name == "timm" and (published_name(source).startswith("tf_") or name.endswith("_minimalistic")):
        return "same"
    return layout.padding


def _norm_eps(layout: Layout, name: str, padding: str) -> float | None:
    """The norm epsilon that weights were trained with; None to take them as they are."""
    if layout.name == "timm" and (padding == "same" or name in TIMM_EPS_OF_TENSORFLOW):
        return 1e-3
    return layout.norm_eps


def with_norm_eps(state: dict[str, Tensor], theirs: float, ours: float) -> dict[str, Tensor]:
    """Rescales norms so that with epsilon `ours` they compute in evaluation mode what they did with `theirs`."""
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
    """The architecture of some weights, as keywords of `create`."""

    name: str
    width: float
    tail: str
    fixed_stem: bool


def _find_architecture(layout: Layout, source: str) -> _Found:
    """The first architecture, width, tail and stem whose channels and kernels are those of a checkpoint."""
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
        if len(table.rows) != len(blocks) or table.squeeze.before_activation != bool(layout.se_before_activation):
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
