"""A folder of predictions: what it was made with, what is done in it, and the tables at its end."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from backbone.weights.names import is_name
from tools.io.files import remove_strays, replace_file
from tools.io.packages import versions
from tools.joint.panoptic import coco_categories
from tools.predicting import journal
from tools.predicting.files import ImageFiles, label_ids
from tools.predicting.items import Item
from tools.predicting.models import PUBLISHED_FILE
from tools.predicting.settings import FOLDERS
from tools.predicting.tables import write_csv, write_json, write_panoptic

TABLE_FILES = ("detections.json", "detections.csv", "panoptic.json")
HEADER, DAMAGED, SHARDS = "predictions.json", "damaged.txt", "shards"
OURS = (*FOLDERS, *TABLE_FILES, journal.NAME, DAMAGED, SHARDS)
"""What else a run writes."""
FORMAT = 1
PACKAGES = ("torch", "opencv-python", "numpy")


class ResultsFolder:
    """A folder of predictions that is opened to be filled, or to be filled further.

    Arguments:
        path: of the folder; another run's is gone on with if it was made with the same settings.
        kinds: of SAVES.
        predictors: of single tasks, one for each, as `pairs.parts` gives them.
        settings: what must be equal for a run to go on, as JSON can hold it.
        overwrite: delete what an earlier run predicted.

    Raises:
        InputError: the folder has other files under our names, or was made with other settings.
    """

    def __init__(
        self, path: Path, kinds: Sequence[str], predictors: Sequence[Any], settings: dict[str, Any], overwrite: bool
    ) -> None:
        self.path, self.kinds, self.predictors, self.settings = path, tuple(kinds), predictors, settings
        self.files = ImageFiles(path, kinds)
        self.journal = path / journal.NAME
        header = path / HEADER
        if not header.is_file():
            if foreign := [name for name in OURS if (path / name).exists()]:
                raise InputError(f"{path}: has {foreign[0]}, but no {HEADER} of an earlier run; choose another folder")
        elif overwrite:
            self._delete()
        else:
            self._compare(header)
        for folder in (path, *(folder for name in (*FOLDERS, SHARDS) for folder in _folders(path / name))):
            remove_strays(folder)
        self._write_header(images=None, damaged=None)

    def records(self) -> dict[str, dict[str, Any]]:
        """The records of all images that are done, by key; those of shards too."""
        found = journal.read_records(self.journal)
        for shard in sorted((self.path / SHARDS).glob("*.jsonl")):
            found |= journal.read_records(shard)
        return found

    def is_done(self, item: Item, records: dict[str, dict[str, Any]]) -> bool:
        """Whether an image has its record, and its files, under the names that they would have now."""
        record = records.get(item.key)
        return record is not None and record["stem"] == item.stem and self.files.are_whole(item)

    def finish(self, items: Sequence[Item], damaged: Iterable[str], *, complete: bool = True) -> None:
        """Puts the journal in the items' order and writes the tables, the list of damaged images and the header.

        Arguments:
            damaged: a line for each image that was passed over.
            complete: whether all of the source is in the tables.
        """
        records = self.records()
        found = [(item, records[item.key]) for item in items if item.key in records]
        journal.rewrite(self.journal, (record for _, record in found))
        if (self.path / SHARDS).exists():
            shutil.rmtree(self.path / SHARDS)
        for predictor in self.predictors:
            if predictor.task == "detection":
                if "json" in self.kinds:
                    write_json(self.path / "detections.json", found, predictor.category_ids)
                if "csv" in self.kinds:
                    write_csv(self.path / "detections.csv", found, predictor.classes)
        if "panoptic" in self.kinds:
            areas, boxes = self.predictors
            ids = label_ids(areas.classes, areas.colors).ids
            categories = coco_categories(areas.classes, areas.colors, boxes.classes, ids)
            write_panoptic(self.path / "panoptic.json", found, categories)
        lines = [f"{line}\n" for line in damaged]
        if lines:
            replace_file(self.path / DAMAGED, lambda part: part.write_text("".join(lines), encoding="utf-8"))
        else:
            (self.path / DAMAGED).unlink(missing_ok=True)
        for name in FOLDERS:  # of workers that were lost
            for folder in _folders(self.path / name):
                remove_strays(folder)
        self._write_header(images=len(found), damaged=len(lines), complete=complete)

    def _compare(self, header: Path) -> None:
        """Checks that the earlier run had the same settings."""
        try:
            before = json.loads(header.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{header}: cannot be read ({error}); give --overwrite, or another folder") from error
        for key, value in self.settings.items():
            if before.get(key) != value:
                was, now = (_short(which) for which in (before.get(key), value))
                raise InputError(
                    f"{self.path}: was predicted with {key.replace('_', ' ')} {was}, not {now}; give --overwrite to "
                    "begin anew, or another folder"
                )

    def _delete(self) -> None:
        """Deletes an earlier run's files, and nothing else that lies in their folders."""
        for record in self.records().values():
            for kind in FOLDERS:
                for suffix in (".png", ".jpg"):
                    (self.path / kind / f"{record['stem']}{suffix}").unlink(missing_ok=True)
        for name in (journal.NAME, *TABLE_FILES, DAMAGED, HEADER):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / SHARDS, ignore_errors=True)

    def _write_header(self, *, images: int | None, damaged: int | None, complete: bool = False) -> None:
        models = {}
        for predictor in self.predictors:
            model = {"classes": predictor.classes, "engine": predictor.engine}
            if predictor.task == "segmentation":
                stored = label_ids(predictor.classes, predictor.colors)
                ids = stored.ids[: len(predictor.classes)].tolist()
                model |= {"label_ids": ids, "ids_are": stored.whose, "colors": predictor.colors.tolist()}
            else:
                model["category_ids"] = list(predictor.category_ids)
            models[predictor.task] = model
        content = {
            "format": FORMAT,
            "complete": complete,
            "images": images,
            "damaged": damaged,
            "saved": list(self.kinds),
            "settings": self.settings,
            "models": models,
            "versions": versions(PACKAGES),
        }
        rows = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
        text = "{\n  " + ",\n  ".join(rows) + "\n}\n"
        replace_file(self.path / HEADER, lambda part: part.write_text(text, encoding="utf-8"))


def fingerprint(weights: Path) -> dict[str, str]:
    """A model's name, and what tells its content from another's."""
    if is_name(weights):
        return {"name": str(weights)}
    file = weights / PUBLISHED_FILE if weights.is_dir() else weights
    digest = hashlib.sha256(file.read_bytes())
    if file.suffix == ".xml":  # OpenVINO's weights lie beside it
        digest.update(file.with_suffix(".bin").read_bytes())
    return {"name": weights.name, "sha256": digest.hexdigest()}


def _short(value: Any) -> str:
    """A setting as a message names it."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return " and ".join(f"{model['name']} ({model.get('sha256', 'published')[:8]})" for model in value)
    return json.dumps(value)


def _folders(root: Path) -> list[Path]:
    """A folder and all below it; none where it is not there."""
    return [root, *(path for path in root.rglob("*") if path.is_dir())] if root.is_dir() else []
