"""Loads whole segmentation models: our files, and torchvision's LR-ASPP."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbone.errors import InputError
from backbone.translation import IMAGENET, Triple
from backbone.weights import NORM, load_strictly, read_weights, torchvision_names
from seg.model import Segmenter, create


def load_weights(model: Segmenter, source: str | Path | Mapping[str, Tensor]) -> str:
    """Loads a checkpoint, recognised by its names, and returns the name of its layout ("taproot" or "torchvision").

    Raises:
        InputError: the layout is unknown, or a tensor is missing, left over or of another shape.
    """
    name = "state dict" if isinstance(source, Mapping) else str(source)
    state = read_weights(source)
    if "backbone.stem.conv.weight" in state:
        layout = "taproot"
    elif "classifier.cbr.0.weight" in state:
        layout = "torchvision"
        state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
        names = _torchvision_names(model)
        state = {names.get(key, key): value for key, value in state.items()}
    else:
        if "decode_head.aspp_conv.conv.weight" in state:
            raise InputError(
                f"{name}: mmseg's LR-ASPP, whose decoder merges three maps and so is none of ours; "
                "as a backbone's weights the file can be used"
            )
        first = next(iter(state), None)
        raise InputError(f"{name}: unknown layout (first name {first!r}); known: torchvision's LR-ASPP and ours")
    load_strictly(model, state, source=name)
    return layout


class Pretrained(NamedTuple):
    """What `from_weights` found in a checkpoint."""

    model: nn.Module
    layout: str
    arguments: dict[str, Any]  # the keywords of `create` that build it
    mean: Triple  # of the inputs' normalisation in the publisher's file, RGB in 0..1
    std: Triple


def from_weights(source: str | Path | Mapping[str, Tensor]) -> Pretrained:
    """The segmentation model that another library's checkpoint is of, with its weights: torchvision's LR-ASPP.

    Raises:
        InputError: what `load_weights` raises.
    """
    state = read_weights(source)
    arguments: dict[str, Any] = {"head": "lraspp", "backbone": "mobilenet_v3_large", "variant": "torchvision"}
    if "classifier.cbr.0.weight" in state:
        arguments |= {
            "num_classes": len(state["classifier.low_classifier.weight"]),
            "filters": len(state["classifier.cbr.0.weight"]),
        }
    model = create(**arguments)
    return Pretrained(model, load_weights(model, source), arguments, *IMAGENET)


def _torchvision_names(model: Segmenter) -> dict[str, str]:
    names = {
        theirs.replace("features.", "backbone.", 1): f"backbone.{ours}"
        for theirs, ours in torchvision_names(model.backbone).items()
    }
    names["classifier.cbr.0.weight"] = "head.project.conv.weight"
    names |= {f"classifier.cbr.1.{value}": f"head.project.norm.{value}" for value in NORM}
    names["classifier.scale.1.weight"] = "head.gate.weight"
    for level in ("low", "high"):
        for value in ("weight", "bias"):
            names[f"classifier.{level}_classifier.{value}"] = f"head.classify_{level}.{value}"
    return names
