"""Loads whole segmentation models: our files, and torchvision's LR-ASPP."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from backbone.errors import InputError
from backbone.weights import NORM, load_strictly, read_weights, torchvision_names
from seg.model import Segmenter


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
        first = next(iter(state), None)
        raise InputError(f"{name}: unknown layout (first name {first!r}); known: torchvision's LR-ASPP and ours")
    load_strictly(model, state, source=name)
    return layout


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
