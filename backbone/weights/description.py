"""The description of a model in the header of our weights files: its format, and how older ones are read.

The header of a safetensors file has one entry of ours, KEY, a JSON table:

    format          FORMAT of the suite that wrote the file; files without it are of format 0
    task            "segmentation", "detection", "classification" or "joint"
    model           the keywords of `create` or `classifier` that build the model
    classes         names, in the order of the outputs
    mean, std       of the inputs' normalisation, RGB in 0..1

and by task: `colors` (RGB, per class); `category_ids`, `score` ("softmax" or "sigmoid") and at times `nms_iou`; `size`,
`crop_pct` and `interpolation`. A joint network has `heads` instead of `classes`: by name, what a single model's file
says of the head, whose keywords are in `model`, beneath `heads`. Training adds `step` and `metrics`, the evaluation
that the weights are the best of; publishing adds `licence`, `data` and `data_terms`, texts.
"""

import json
from collections.abc import Mapping
from typing import Any

from backbone.errors import InputError

KEY = "taproot"
FORMAT = 1
"""Counts up when a key of the description, or a value, changes its name or meaning; `_translated` then gets a step."""

RENAMED_IN_MODEL_1 = {"filters": "head_channels"}
RENAMED_NETWORKS_1 = {
    "mobilenet_v3_large_squeeze_first": "mobilenet_v3_large_se_before_activation",
    "mobilenet_v3_small_squeeze_first": "mobilenet_v3_small_se_before_activation",
}
"""What format 1 renamed: keywords of the model, and names of networks."""


def write_header(description: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a safetensors file whose model is described so."""
    return {KEY: json.dumps({"format": FORMAT, **description})}


def read_header(metadata: Mapping[str, str] | None, source: str) -> dict[str, Any]:
    """The description in a safetensors file's metadata, in today's words; empty if there is none.

    Arguments:
        source: the file's name, for errors.

    Raises:
        InputError: the description is damaged, or of a newer format.
    """
    written = (metadata or {}).get(KEY)
    if written is None:
        return {}
    try:
        description = json.loads(written)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict) or not isinstance(description.get("model", {}), dict):
        raise InputError(f"{source}: the description in its header cannot be read; give the file as it was written")
    found = description.pop("format", 0)
    if not isinstance(found, int) or found < 0:
        raise InputError(f"{source}: format {found!r} of its header is no number; give the file as it was written")
    if found > FORMAT:
        raise InputError(
            f"{source}: was written by a newer taproot (format {found}; this one reads up to {FORMAT}); update taproot"
        )
    return _translated(description, found)


def _translated(description: dict[str, Any], found: int) -> dict[str, Any]:
    """A description of format `found` as FORMAT has it."""
    if found < 1:
        model = {RENAMED_IN_MODEL_1.get(key, key): value for key, value in description.get("model", {}).items()}
        for key in ("name", "backbone"):  # of a classifier; of a segmenter or detector
            if key in model:
                model[key] = RENAMED_NETWORKS_1.get(model[key], model[key])
        if "alignment" in model:
            model["align_corners"] = model.pop("alignment") == "corners"
        description = {{"scores": "metrics"}.get(key, key): value for key, value in description.items()}
        if model:
            description["model"] = model
    return description
