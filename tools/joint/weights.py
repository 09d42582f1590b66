"""The weights file of a joint network: what its header says, how it is split, and what one may start from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import backbone as backbones
import det
import seg
from backbone.errors import InputError
from backbone.weights.loading import load_strictly, read_described
from seg.heads import OUTPUT_STRIDES
from tools.io.model_file import PUBLISHED_HEADS, build, load_description, load_tensors, save_model
from tools.joint.network import JointNetwork, Single, create, default_tail
from tools.options import JOINT

CREATE = {"segmentation": seg.create, "detection": det.create}


def describe(
    network: JointNetwork, heads: Mapping[str, Mapping[str, Any]], *, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """The description in the header of a joint network's file.

    Arguments:
        heads: by name, what the header of a single model's file says of its head: `classes`, and `colors`, or
            `category_ids`, `score` and at times `nms_iou`.
        mean, std: of the inputs' normalisation, RGB in 0..1.
    """
    return {
        "task": JOINT,
        "model": network.keywords(),
        "heads": {name: dict(heads[name]) for name in network.tasks},
        "mean": list(mean),
        "std": list(std),
    }


def load(path: str | Path) -> tuple[JointNetwork, dict[str, Any]]:
    """The network in a file that `tools.train_joint` wrote, and the file's description.

    `head_description(description, name)` is what the file of that head's single model would say.

    Raises:
        InputError: the file is missing, damaged, or of another task.
    """
    description = load_description(path)
    if description["task"] != JOINT:
        raise InputError(f"{path}: is a model for {description['task']}, not a joint network; give a joint run's file")
    network = build(create, path, description)
    load_strictly(network, load_tensors(path), source=str(path))
    return network, description


def head_description(description: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The description of the single model of a head: `task`, `model` as keywords of `create`, classes, normalisation.

    Arguments:
        description: of a joint network, as `load` gives it.
    """
    body = {key: value for key, value in description["model"].items() if key != "heads"}
    keywords = dict(description["model"]["heads"][name])
    task = keywords.pop("task")
    if task == "detection":
        del body["output_stride"]
    own = {"task": task, "model": body | keywords, **description["heads"][name]}
    return own | {"mean": description["mean"], "std": description["std"]}


def single_models(model: nn.Module, description: Mapping[str, Any]) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """By heads' names: the single models of a joint network, on the shared backbone, and their descriptions.

    Any other model is given back as it is, by the name of its task.
    """
    if isinstance(model, JointNetwork):
        return {name: (model.single(name), head_description(description, name)) for name in model.tasks}
    return {description["task"]: (model, dict(description))}


def split(network: JointNetwork, description: Mapping[str, Any], name: str) -> tuple[Single, dict[str, Any]]:
    """The single model of a head with a backbone of its own, and its description; its outputs are the same to the bit.

    Raises:
        InputError: the network has no such head.
    """
    if name not in network.tasks:
        raise InputError(f"head {name!r} is unknown; the network has: {', '.join(network.tasks)}")
    single = head_description(description, name)
    model = CREATE[network.tasks[name]](**single["model"])
    state = network.single(name).state_dict()
    load_strictly(model, {key: state[key] for key in model.state_dict()}, source=f"head {name!r}")
    return model, single


def split_file(path: Path, out: Mapping[str, Path]) -> None:
    """Writes single models' files from a joint network's.

    Arguments:
        out: the file to write, by the head's name.

    Raises:
        InputError: a file cannot be read or written, or the network has no such head.
    """
    network, description = load(path)
    for name, file in out.items():
        model, single = split(network, description, name)
        save_model(file, model, single | {"split_from": Path(path).name})


def initial_files(sources: str) -> list[str]:
    """The files, or the name, in the key `weights` of a joint run."""
    return [source.strip() for source in sources.split(",")]


def joint_tail(sources: str) -> str | None:
    """The tail of the backbone in the files that a joint run starts from; None where they do not tell."""
    _, description = read_described(initial_files(sources)[0])
    task, model = description.get("task"), description.get("model", {})
    if task == JOINT:
        return model["tail"]
    if task not in CREATE:
        return None
    if model.get("tail") is not None:
        return model["tail"]
    return default_tail(task, model, backbones.architecture(model["backbone"]))


def saved_head(sources: str, task: str) -> dict[str, Any]:
    """The description of the single model of a head that a run keeps as its weights have it.

    Arguments:
        sources: as `load_initial` takes them.
        task: of the head, which is also its name in a joint file.

    Raises:
        InputError: no file has such a head, or it cannot be kept beside another task's head.
    """
    for source in initial_files(sources):
        _, description = read_described(source)
        if description.get("task") == JOINT and task in description["heads"]:
            return head_description(description, task)
        if description.get("task") == task:
            model = description["model"]
            if task == "segmentation" and output_stride(model) != 32:
                raise InputError(
                    f"{source}: was trained at output stride {output_stride(model)}, and detection needs 32, where its "
                    "labels would differ; train it with model.output_stride=32"
                )
            return description
    raise InputError(f"{sources}: has no {task} head to keep; {task}.weight=0 needs the weights of a {task} model")


def output_stride(model: Mapping[str, Any]) -> int:
    """That of the segmenter which these keywords of `seg.create` make."""
    return model.get("output_stride") or OUTPUT_STRIDES[model.get("head", "lraspp")][0]


def load_initial(network: JointNetwork, classes: Mapping[str, Sequence[str]], sources: str) -> str:
    """Loads what a joint run starts from and says what was found.

    Arguments:
        network: is left as it was where the weights do not fit.
        classes: of the run's data, by head.
        sources: a backbone's weights, the file of a joint network or of a single model, whose head is taken, or two
            files of single models of one backbone, separated by a comma.

    Raises:
        InputError: a file cannot be read or does not fit; two files have different backbones or the same head.
    """
    own = network.state_dict()
    state: dict[str, Tensor] = {}
    found: list[str] = []
    files, normalised = initial_files(sources), None
    for source in files:
        tensors, description = read_described(source)
        if any(name.startswith(PUBLISHED_HEADS) for name in tensors):
            raise InputError(f"{source}: is a published model; tools.convert_weights makes a file of it that fits here")
        if description.get("task") not in (JOINT, *CREATE):
            if len(files) > 1:
                raise InputError(f"{source}: has a backbone only; of several files each must have a head")
            return f"backbone, {backbones.load_weights(network.backbone, source)} layout"
        heads = _heads_of(network, classes, description, source)
        if normalised not in (None, (description["mean"], description["std"])):
            raise InputError(f"{source}: its images are normalised otherwise than {files[0]}'s; give one of them")
        normalised = description["mean"], description["std"]
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            if part == "backbone":
                key = name
            elif part in heads:
                key = f"{heads[part]}.{rest}"
            else:
                continue
            if key in state and not torch.equal(state[key], value):
                what = "backbones differ" if part == "backbone" else "both have this head"
                raise InputError(f"{source}: {what} ({name}) from {files[0]}; give one, or files of one network")
            if part != "backbone" or key in own:  # a deeper backbone than this network needs
                state[key] = value
        found += heads.values()
    fresh = [key for key in own if key.startswith("backbone.") and key not in state]
    for name in network.tasks:
        if name not in found:
            fresh += [key for key in own if key.startswith(f"{name}.")]
    load_strictly(network, {key: own[key] for key in fresh} | state, source=sources)
    layers = sorted({".".join(key.split(".")[1:3]) for key in fresh if key.startswith("backbone.")})
    deeper = f"; new in the backbone: {', '.join(layers)}" if layers else ""
    return f"backbone{''.join(f', head {name}' for name in found)}, taproot layout{deeper}"


def _heads_of(
    network: JointNetwork, classes: Mapping[str, Sequence[str]], description: Mapping[str, Any], source: str
) -> dict[str, str]:
    """The heads in a file that the network has too: their names in the file's tensors -> the network's.

    Raises:
        InputError: the file's backbone is padded otherwise, or a head's classes are not those of the data.
    """
    if description["task"] == JOINT:
        tables = {name: head_description(description, name) for name in description["heads"]}
        heads = {name: name for name in tables if network.tasks.get(name) == tables[name]["task"]}
    else:
        tables = {"head": description}
        same = [name for name, task in network.tasks.items() if task == description["task"]]
        heads = {"head": same[0]} if same else {}
    for theirs, ours in heads.items():
        model = tables[theirs]["model"]
        if model.get("align_corners"):
            raise InputError(f"{source}: was trained with align_corners, which no head on a shared backbone can have")
        if tables[theirs]["classes"] != list(classes[ours]):
            raise InputError(
                f"{source}: its {ours} head is for the classes {', '.join(tables[theirs]['classes'][:3])}, …; the data "
                f"has {', '.join(classes[ours][:3])}, …; start from a backbone, or give data of these classes"
            )
    padding = next(iter(tables.values()))["model"].get("padding", "symmetric")
    if padding != network.backbone.padding:
        raise InputError(
            f"{source}: needs model.padding={padding}, the network has {network.backbone.padding}; leave the key out"
        )
    return heads
