"""Makes the folder that a model hub shows: weights, card, description, settings, example image."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from torch import nn

from backbone.data.images import read_image
from backbone.errors import InputError
from backbone.weights.description import FORMAT
from backbone.weights.names import TERMS, is_name
from backbone.weights.names import terms as terms_of_name
from tools.io.files import open_folder, replace_file
from tools.io.model_file import load_description, save_model
from tools.options import JOINT
from tools.predicting.models import load, load_model
from tools.publishing.card import EXAMPLE, FILES, Card, default_name, slug, write_card
from tools.publishing.metrics import read_metrics
from tools.scoring.classification import load_classifier

OWNER = "OWNER"
"""Stands for the account's name where none was given."""
EXAMPLE_WIDTH = 1280
"""Pixels across of the example image, at most."""
ABSOLUTE = re.compile(r"(/|~|\\|[A-Za-z]:[\\/])")
"""How a path begins that says where things lie on the publisher's machine."""


def publish(
    weights: Path,
    out: Path,
    *,
    name: str | None,
    licence: str | None,
    data: str | None,
    terms: str | None,
    metrics: Path | None,
    report: Path | None,
    image: Path | None,
) -> Card:
    """Writes the folder `out` and returns what its card says; all is read and checked before anything is written.

    Arguments:
        weights: a file of ours, or the name of one on the hub; a config.yaml beside it is the run's.
        name: OWNER/REPOSITORY or REPOSITORY; by default made of head, network and data.
        licence: of the weights, by the hub's identifier.
        data: name of the data; by default that in the header, or of the folder in config.yaml.
        terms: of the data; by default those known of the published sets.
        metrics: by default the metrics.json beside the weights, if there is one.
        image: to draw the result into.

    Raises:
        InputError: something cannot be read, does not belong to the weights, or cannot be written.
    """
    description = load_description(weights)
    if description["task"] == JOINT:
        raise InputError(
            f"{weights}: is a joint network, for which there is no card; publish the single models that tools.split "
            "makes of it"
        )
    model = _load(weights, description)
    beside = weights.parent if weights.exists() else None  # weights by name have nothing beside them
    config = _read_config(beside / "config.yaml") if beside is not None else None
    # What the header says is of a model that was published before.
    licence, terms = licence or description.get("licence"), terms or description.get("data_terms")
    data = data or description.get("data") or (None if config is None else _data_folder(config))
    if metrics is None and beside is not None and (beside / "metrics.json").is_file():
        metrics = beside / "metrics.json"
    scored = None if metrics is None else read_metrics(metrics, weights, description)
    if scored is not None and data is None:
        raise InputError(f"{metrics}: does not say of which data it is; name it with --data")
    frame = None if image is None else read_image(image)
    if frame is not None and description["task"] == "classification":
        raise InputError(f"--image {image}: {weights} is a classifier, which draws nothing; leave it out")
    if report is not None and not report.is_file():
        raise InputError(f"--report {report}: no such file; tools.eval_seg and tools.eval_det --report write one")

    if terms is None and data is not None:
        terms = next((text for known, text in TERMS.items() if slug(known) in slug(data)), None)
    name = name or default_name(description, data)
    initial = initial_terms = None
    if config is not None and isinstance(config.get("weights"), str):
        initial = config["weights"]
        if is_name(initial):
            initial_terms = terms_of_name(initial)
        else:
            initial = Path(initial).name
    files = {"model.safetensors": True, "config.json": True, "config.yaml": config is not None}
    files |= {"report.html": report is not None, EXAMPLE: frame is not None}
    card = Card(
        name=name if "/" in name else f"{OWNER}/{name}",
        description=description,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        licence=licence,
        data=data,
        terms=terms,
        initial=initial,
        initial_terms=initial_terms,
        scored=scored,
        files=tuple(file for file, present in files.items() if present),
    )
    _write(card, model, out, config=config, report=report, frame_bgr=frame)
    return card


def _load(weights: Path, description: dict[str, Any]) -> nn.Module:
    """The model, loaded strictly."""
    if description["task"] == "classification":
        return load_classifier(weights)[0]
    return load_model(weights)[0]


def _read_config(path: Path) -> dict[str, Any] | None:
    """The run's settings; None if there are none.

    Raises:
        InputError: the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); move it away from the weights, or mend it") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: has no settings in it; move it away from the weights")
    return config


def _data_folder(config: dict[str, Any]) -> str | None:
    """The name of the folder that a run learned from."""
    data = config.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    return Path(root).name or None if isinstance(root, str) else None


def _without_folders(value: Any) -> Any:
    """Settings in which absolute paths, which say where things lie on the publisher's machine, are file names only."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and ABSOLUTE.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _write(
    card: Card,
    model: nn.Module,
    out: Path,
    *,
    config: dict[str, Any] | None,
    report: Path | None,
    frame_bgr: np.ndarray | None,
) -> None:
    """Writes all files, and removes those of an earlier publication that this one has not."""
    open_folder(out)
    for stale in {*FILES, EXAMPLE} - set(card.files):
        (out / stale).unlink(missing_ok=True)
    stated = {"licence": card.licence, "data": card.data, "data_terms": card.terms}
    description = card.description | {key: value for key, value in stated.items() if value is not None}
    save_model(out / "model.safetensors", model, description)
    _write_text(out / "config.json", json.dumps({"format": FORMAT, **description}, indent=1) + "\n")
    if config is not None:
        _write_text(out / "config.yaml", yaml.safe_dump(_without_folders(config), sort_keys=False, allow_unicode=True))
    if report is not None:
        replace_file(out / "report.html", lambda part: shutil.copyfile(report, part))
    if frame_bgr is not None:
        jpeg = draw_example(out, frame_bgr)
        replace_file(out / EXAMPLE, lambda part: part.write_bytes(jpeg))
    _write_text(out / "README.md", write_card(card))


def draw_example(weights: Path, frame_bgr: np.ndarray) -> bytes:
    """A JPEG of what a model finds in an image, uint8 BGR [H, W, 3], at most EXAMPLE_WIDTH across."""
    drawn = load(weights, engine="torch", device="cpu")(frame_bgr).draw(frame_bgr)
    height, width = drawn.shape[:2]
    if width > EXAMPLE_WIDTH:
        smaller = (EXAMPLE_WIDTH, max(1, round(height * EXAMPLE_WIDTH / width)))
        drawn = cv2.resize(drawn, smaller, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def _write_text(path: Path, text: str) -> None:
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
