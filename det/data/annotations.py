"""Reads and validates COCO's json files: annotations and results."""

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from backbone.errors import InputError

TABLES = ("images", "annotations", "categories")


@contextmanager
def without_collector() -> Iterator[None]:
    """Suspends Python's cyclic garbage collector, which would traverse millions of small dicts again and again.

    They hold no cycles, and reading and evaluating half a million detections takes half as long.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@without_collector()
def read_annotations(path: str | Path) -> dict[str, Any]:
    """The content of an annotation file that passes `check_annotations`.

    The boxes of COCO's test splits are not public: an `image_info_*.json` is read as a file with no annotations.

    Raises:
        InputError: the file cannot be read or is malformed; the message names the line or field.
    """
    content = read_json(path)
    if not is_scored(path) and isinstance(content, dict):
        content.setdefault("annotations", [])
    check_annotations(content, str(path))
    return content


def annotation_file(root: str | Path, split: str) -> Path:
    """`annotations/instances_SPLIT.json`, or `image_info_SPLIT.json` where only that exists."""
    instances, image_info = (
        Path(root) / "annotations" / f"{kind}_{split}.json" for kind in ("instances", "image_info")
    )
    return image_info if image_info.exists() and not instances.exists() else instances


def is_scored(path: str | Path) -> bool:
    """Whether an annotation file has boxes to evaluate against; COCO's `image_info_*.json` (test splits) have none."""
    return not Path(path).name.startswith("image_info_")


def image_folder(root: str | Path, split: str) -> Path:
    """`SPLIT/`; the images of the split test-dev2017 are among those of test2017."""
    return Path(root) / split.replace("test-dev", "test")


def check_annotations(content: Any, name: str) -> None:
    """Checks that all tables exist, fields have the right types, and ids are unique and refer to existing entries.

    Boxes may have any size and place; `CocoDetection` cleans them.

    Arguments:
        content: of an annotation file.
        name: of the file, for errors.

    Raises:
        InputError: something is missing, malformed or inconsistent; the message names the field.
    """
    if not isinstance(content, dict):
        raise InputError(f"{name}: must be an object with {', '.join(TABLES)}")
    ids = {}
    for table in TABLES:
        rows = content.get(table)
        if not isinstance(rows, list):
            raise InputError(f"{name}: {table} is missing or not a list")
        seen: dict[int, int] = {}
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise InputError(f"{name}: {table}[{number}] must be an object")
            row_id = _field(row, "id", int, f"{name}: {table}[{number}]")
            if row_id in seen:
                raise InputError(f"{name}: {table}[{seen[row_id]}] and {table}[{number}] have the same id {row_id}")
            seen[row_id] = number
        ids[table] = seen
    for table in ("images", "categories"):
        if not content[table]:
            raise InputError(f"{name}: {table} is empty; there must be at least one entry")

    for number, row in enumerate(content["categories"]):
        _field(row, "name", str, f"{name}: categories[{number}]")
    for number, row in enumerate(content["images"]):
        where = f"{name}: images[{number}]"
        _field(row, "file_name", str, where)
        for side in ("height", "width"):
            if _field(row, side, int, where) < 1:
                raise InputError(f"{where}.{side} must be at least 1, is {row[side]}")
    for number, row in enumerate(content["annotations"]):
        where = f"{name}: annotations[{number}]"
        for key, table in (("image_id", "images"), ("category_id", "categories")):
            if _field(row, key, int, where) not in ids[table]:
                raise InputError(f"{where}.{key} {row[key]} is not the id of any entry of {table}")
        _check_box(row, where)
        if row.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{where}.iscrowd must be 0 or 1, is {row['iscrowd']!r:.40}")
        if not _is_number(row.get("area", 0)):
            raise InputError(f"{where}.area must be a number, is {row['area']!r:.40}")


@without_collector()
def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Detections in COCO's results format: image_id, category_id, bbox (xywh in pixels) and score, from any source.

    Raises:
        InputError: the file cannot be read, or an entry is malformed; the message names it.
    """
    results = read_json(path)
    if not isinstance(results, list):
        raise InputError(f"{path}: must be a list of detections in COCO's results format")
    for number, row in enumerate(results):
        where = f"{path}: [{number}]"
        if not isinstance(row, dict):
            raise InputError(f"{where} must be an object")
        _field(row, "image_id", int, where)
        _field(row, "category_id", int, where)
        _check_box(row, where)
        if not _is_number(row.get("score")):
            raise InputError(f"{where}.score must be a number, is {row.get('score')!r:.40}")
    return results


def check_file_name(file_name: str, folder: Path, where: str) -> Path:
    """The real path of an image, which must lie below `folder`; whether it exists is not checked.

    Arguments:
        folder: a path without links (`Path.resolve`).
        where: names the entry, for errors.

    Raises:
        InputError: the name is absolute, a URL, or leads out of the folder.
    """
    absolute = PurePosixPath(file_name).is_absolute() or "\\" in file_name or "://" in file_name
    bad = "\0" in file_name or absolute or not file_name
    real = "" if bad else os.path.realpath(folder / file_name)
    if not real.startswith(f"{folder}{os.sep}"):
        raise InputError(f"{where}.file_name {file_name!r:.80} must be a path inside {folder}")
    return Path(real)


def read_json(path: str | Path) -> Any:
    """The content of a json file.

    Raises:
        InputError: it cannot be read or is not strict JSON; the message names the place.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); is it the json file?") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); is it the json file?") from error

    def refuse(constant: str) -> None:
        raise InputError(f"{path}: holds {constant}, which JSON does not allow; remove the object it belongs to")

    try:
        # A number too large for a float becomes infinite here; the cleaning of boxes and the evaluation handle that.
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{path}: is not JSON at {place} ({error.msg}); is the file complete?") from error
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply to be one of COCO's files") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: holds a number that cannot be read ({error})") from error


def _field(row: dict, key: str, kind: type, where: str) -> Any:
    if key not in row:
        raise InputError(f"{where}.{key} is missing")
    # type() because True is an int to isinstance().
    if type(row[key]) is not kind:
        raise InputError(f"{where}.{key} must be of type {kind.__name__}, is {row[key]!r:.40}")
    return row[key]


def _check_box(row: dict, where: str) -> None:
    box = _field(row, "bbox", list, where)
    # The first test covers nearly all boxes, in a third of the time of the second.
    if len(box) != 4 or not (set(map(type, box)) == {float} or all(map(_is_number, box))):
        raise InputError(f"{where}.bbox must be four numbers [x, y, width, height], is {box!r:.60}")


def _is_number(value: Any) -> bool:
    # Larger integers would fail later, in NumPy.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)
