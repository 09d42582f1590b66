"""The page's folder: its own files, the models as ONNX, what it says of them, and the runtime."""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from det.model import Detector
from det.predictor import class_colors
from tools.browsing.frame_graph import frame_graph
from tools.browsing.runtime import FILES
from tools.exporting.onnx_format import check_onnx_installed, write_onnx
from tools.io.files import replace_file
from tools.predict import load_model

PAGE = Path(__file__).with_name("page")
LEAST_SCORE = 0.05
"""Boxes that score less never reach the page, whatever its slider says."""


def write_folder(
    out: Path, weights: Sequence[Path], *, size_hw: tuple[int, int], runtime: Path
) -> list[dict[str, Any]]:
    """Writes the page's folder; files of an earlier page in it are replaced.

    Arguments:
        weights: of one model, or of one for each task.
        size_hw: (height, width) of a segmenter's input in pixels; a detector has its own.
        runtime: the folder that holds the runtime's FILES.

    Returns:
        what the page is told of each model.

    Raises:
        InputError: a model does not fit, or the folder cannot be written.
    """
    check_onnx_installed()
    models: list[dict[str, Any]] = []
    for path in weights:
        model, description = load_model(path)
        task = description["task"]
        if task in [entry["task"] for entry in models]:
            raise InputError(f"{path}: is a second model for {task}; give one for each task")
        detects = isinstance(model, Detector)
        graph = frame_graph(model, description, None if detects else size_hw, LEAST_SCORE)
        name = f"{task}.onnx"
        with warnings.catch_warnings():
            # torch's exporter warns of its own workings.
            warnings.simplefilter("ignore")
            replace_file(out / name, lambda temporary, graph=graph: write_onnx(graph, temporary))
        colors = (
            [color[::-1] for color in class_colors(len(description["classes"]))] if detects else description["colors"]
        )
        models.append(
            {
                "file": name,
                "task": task,
                "size": list(graph.size_hw),
                "classes": list(description["classes"]),
                "colors": [list(map(int, color)) for color in colors],
            }
        )
    for source in (*sorted(PAGE.iterdir()), *(runtime / name for name in FILES)):
        replace_file(out / source.name, lambda temporary, source=source: shutil.copyfile(source, temporary))
    text = json.dumps({"models": models}, indent=1) + "\n"
    replace_file(out / "models.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return models
