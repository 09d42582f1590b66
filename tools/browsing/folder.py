"""The page's folder: its own files, the models as ONNX, what it says of them, and the runtime."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from det.model import Detector
from det.predictor import class_colors
from tools.browsing.graph import page_graph, write_page_graph
from tools.browsing.runtime import FILES
from tools.exporting.onnx_format import check_onnx_installed
from tools.io.files import replace_file
from tools.joint.weights import single_models
from tools.predicting.models import load_model

PAGE = Path(__file__).with_name("page")
LEAST_SCORE = 0.05
"""Boxes that score less never reach the page, whatever its slider says."""


def write_folder(
    out: Path, weights: Sequence[Path], *, size_hw: tuple[int, int], runtime: Path
) -> list[dict[str, Any]]:
    """Writes the page's folder; files of an earlier page in it are replaced.

    Arguments:
        weights: of one model, of one for each task, or of a joint network.
        size_hw: (height, width) of the input in pixels of a model that does not detect; a detector has its own.
        runtime: the folder that holds the runtime's FILES.

    Returns:
        what the page is told of each model: its `file`; `size`, the (height, width) of its input in pixels, and
        `resize`, how pictures get it; and `tasks`, the `classes` and RGB `colors` of each.

    Raises:
        InputError: a model does not fit, or the folder cannot be written.
    """
    check_onnx_installed()
    shown: set[str] = set()
    loaded = []
    for path in weights:
        model, description = load_model(path)
        singles = single_models(model, description).values()
        for _, single in singles:
            if single["task"] in shown:
                raise InputError(f"{path}: has a second head for {single['task']}; give one for each task")
            shown.add(single["task"])
        loaded.append((model, description, singles))
    models: list[dict[str, Any]] = []
    for model, description, singles in loaded:
        graph = page_graph(model, description, segmenter_hw=size_hw, score_threshold=LEAST_SCORE)
        file = out / f"{description['task']}.onnx"
        replace_file(file, lambda temporary, graph=graph: write_page_graph(graph, temporary))
        models.append(
            {
                "file": file.name,
                "size": graph.size_hw,
                "resize": next((one.resize for one, _ in singles if isinstance(one, Detector)), "stretch"),
                "tasks": {single["task"]: _classes(single) for _, single in singles},
            }
        )
    _share_colors(models)
    for source in (*sorted(PAGE.iterdir()), *(runtime / name for name in FILES)):
        replace_file(out / source.name, lambda temporary, source=source: shutil.copyfile(source, temporary))
    text = json.dumps({"models": models}, indent=1) + "\n"
    replace_file(out / "models.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return models


def _classes(description: Mapping[str, Any]) -> dict[str, Any]:
    """The `classes` and RGB `colors` of a model with one head."""
    classes = list(description["classes"])
    detects = description["task"] == "detection"
    colors = [color[::-1] for color in class_colors(len(classes))] if detects else description["colors"]
    return {"classes": classes, "colors": [list(map(int, color)) for color in colors]}


def _share_colors(models: Sequence[dict[str, Any]]) -> None:
    """Gives boxes the colors of labels where a segmenter knows the same class."""
    tasks = {task: entry for model in models for task, entry in model["tasks"].items()}
    if len(tasks) < 2:
        return
    known = dict(zip(tasks["segmentation"]["classes"], tasks["segmentation"]["colors"], strict=True))
    boxes = tasks["detection"]
    boxes["colors"] = [known.get(name, own) for name, own in zip(boxes["classes"], boxes["colors"], strict=True)]
