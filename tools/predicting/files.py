"""The files of one image's results, and its record in the journal from which the tables are made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from backbone.errors import InputError
from seg.data import cityscapes
from tools.io.files import replace_file
from tools.io.masks import save_mask
from tools.joint.panoptic import coco_segments, combine, common_classes
from tools.predicting.items import Item
from tools.predicting.settings import FOLDERS, TASKS

Results = Sequence[tuple[str, Any]]
"""Of one image: pairs of task and result, as `pairs.pairs` gives them."""
DIGITS_BOX, DIGITS_SCORE = 2, 4
"""Decimals in the tables: a hundredth of a pixel. What differs below comes from the order of a machine's sums."""


def default_kinds(tasks: Sequence[str]) -> tuple[str, ...]:
    """What is saved where nothing was asked for."""
    return tuple(kind for kind in ("labels", "json") if set(TASKS[kind]) <= set(tasks))


def check_kinds(kinds: Sequence[str], heads: Sequence[Any]) -> None:
    """Checks that the models make what is to be saved.

    Arguments:
        heads: the predictors of single tasks, as `pairs.parts` gives them.

    Raises:
        InputError: one does not, or two models are for one task, whose files would have one name.
    """
    tasks = [head.task for head in heads]
    for task in tasks:
        if tasks.count(task) > 1:
            raise InputError(f"--weights: two models are for {task}; give one for each task, and two runs for two")
    for kind in kinds:
        for task in TASKS.get(kind, ()):
            if task not in tasks:
                raise InputError(f"--save {kind}: is made by a model for {task}; add its --weights, or leave it out")
    if "panoptic" in kinds:
        common_classes(*(head.classes for head in heads))


class LabelIds(NamedTuple):
    """How labels are stored: tables over labels."""

    ids: np.ndarray  # uint8 [256]
    palette: list[int]  # RGB of all 256 ids, one after the other
    whose: str  # for people


def label_ids(classes: Sequence[str], colors: np.ndarray) -> LabelIds:
    """Cityscapes' label ids for its 19 classes, as its evaluation wants them; for others the labels themselves."""
    official = list(classes) == cityscapes.NAMES
    ids = cityscapes.LABEL_ID_OF_TRAIN_ID if official else np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[ids[: len(colors)]] = colors
    return LabelIds(ids, palette.ravel().tolist(), "Cityscapes' label ids" if official else "the model's indices")


class ImageFiles:
    """Writes what was found in one image; may be called from several threads.

    Arguments:
        folder: of all files.
        kinds: of SAVES.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder = folder
        self.kinds = [kind for kind in FOLDERS if kind in kinds]

    def paths(self, item: Item) -> dict[str, Path]:
        """The file of each kind."""
        return {
            kind: self.folder / kind / f"{item.stem}{item.suffix if kind == 'overlay' else '.png'}"
            for kind in self.kinds
        }

    def are_whole(self, item: Item) -> bool:
        """Whether all are there; each came under its name whole."""
        return all(path.is_file() for path in self.paths(item).values())

    def write(self, item: Item, image: np.ndarray, results: Results, drawn: np.ndarray | None = None) -> dict[str, Any]:
        """Writes all files; returns the record.

        Arguments:
            image: uint8 BGR [H, W, 3].
            drawn: the overlay, if it was drawn already.
        """
        paths = self.paths(item)
        if "overlay" in paths:
            overlay = _draw(image, results) if drawn is None else drawn
            _, encoded = cv2.imencode(item.suffix, overlay, _OPTIONS[item.suffix])
            replace_file(paths["overlay"], lambda part: part.write_bytes(encoded.tobytes()))
        record: dict[str, Any] = {"key": item.key, "stem": item.stem}
        for task, result in results:
            if task == "segmentation":
                self._write_labels(paths, result)
            else:
                record |= _boxes(result)
        if "panoptic" in paths:
            areas, found = (result for _, result in results)
            combined = combine(areas, found)
            _write_png(paths["panoptic"], np.ascontiguousarray(combined.colored()[..., ::-1]))
            record["segments"] = coco_segments(combined, label_ids(areas.classes, areas.colors).ids)
        return record

    def _write_labels(self, paths: dict[str, Path], result: Any) -> None:
        stored = label_ids(result.classes, result.colors)
        if "labels" in paths:
            save_mask(paths["labels"], stored.ids[result.labels])
        if "color" in paths:
            save_mask(paths["color"], stored.ids[result.labels], stored.palette)
        if "scores" in paths:
            _write_png(paths["scores"], np.rint(result.scores * 255).astype(np.uint8))


# The lowest compression of PNG is several times faster than the default and about a fifth larger.
_OPTIONS = {".png": [cv2.IMWRITE_PNG_COMPRESSION, 1], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 90]}


def _write_png(path: Path, image: np.ndarray) -> None:
    """Writes an image, uint8 [H, W] or BGR [H, W, 3]."""
    _, encoded = cv2.imencode(".png", image, _OPTIONS[".png"])
    replace_file(path, lambda part: part.write_bytes(encoded.tobytes()))


def _draw(image: np.ndarray, results: Results) -> np.ndarray:
    """A copy of the image, uint8 BGR [H, W, 3], with all results drawn on it, boxes on top."""
    for _, result in results:
        image = result.draw(image)
    return image


def _boxes(result: Any) -> dict[str, Any]:
    """A detector's result as the journal has it."""
    boxes = {
        "boxes": [[round(float(edge), DIGITS_BOX) for edge in box] for box in result.boxes],
        "scores": [round(float(score), DIGITS_SCORE) for score in result.scores],
        "labels": result.labels.tolist(),
    }
    return boxes if result.tracks is None else boxes | {"tracks": result.tracks.tolist()}
