"""Any folders of images and masks as a data set, described by a YAML file with the folders and the classes."""

import difflib
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

from backbone.data.images import IMAGE_SUFFIXES, image_files, is_color, read_colors, read_label
from backbone.errors import InputError
from seg.data.dataset import IGNORE, SegDataset, Transform
from seg.palette import RGB, distinct_colors, pascal_voc_color

UNKNOWN = 254
"""Stands for values in masks that are neither a class nor ignored."""
MAX_CLASSES = 254
"""A label is a byte, and UNKNOWN and IGNORE take two."""
KEYS = ("classes", "ignore", "images", "masks", "mask_ending", "list")
OLD_KEYS = {"pictures": "images"}
"""Keys of older files, and what they are called today."""


class Classes(NamedTuple):
    """What a classes.yaml says."""

    names: list[str]
    colors: list[RGB]  # in which results are drawn: the first that is given, else one of `distinct_colors`
    ids: list[list[int]]  # the values in masks that stand for each class; predictions are written as the first
    mask_colors: list[list[RGB]]  # the same in color masks: the given ones, else Pascal VOC's for the ids
    ignore: list[int]  # values in masks that are ignored
    ignore_colors: list[RGB]  # the same in color masks
    images: str  # folder of images, {split} standing for the split
    masks: str  # folder of masks
    mask_ending: str  # what a mask's name has in place of its image's suffix
    list: str | None  # text file of the split's image names; without it, all images in the folder


def read_classes(path: str | Path) -> Classes:
    """Reads a classes.yaml, whose keys are `KEYS`.

    Raises:
        InputError: it cannot be read, a key is unknown, or names or ids are wrong or occur twice.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list) or not content["classes"]:
        raise InputError(f"{path}: needs a list `classes`, e.g. classes: [{{name: sky, id: 0}}, {{name: tree, id: 1}}]")
    content = _renamed(path, content)
    unknown = sorted(map(str, content.keys() - set(KEYS)))
    if unknown:
        close = difflib.get_close_matches(unknown[0], KEYS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"valid: {', '.join(KEYS)}"
        raise InputError(f"{path}: unknown key {unknown[0]}; {hint}")
    rows = [_class(path, number, entry) for number, entry in enumerate(content["classes"])]
    names = [name for name, _, _ in rows]
    given_colors = [given for _, given, _ in rows]
    ids = [values for _, _, values in rows]
    ignored = content.get("ignore", [IGNORE])
    ignored = ignored if isinstance(ignored, list) else [ignored]
    ignore = _ids(path, "ignore", [entry for entry in ignored if not isinstance(entry, list)])
    ignore_colors = [pascal_voc_color(value) for value in ignore]
    ignore_colors += [_color(path, "ignore", entry) for entry in ignored if isinstance(entry, list)]
    if len(names) > MAX_CLASSES:
        raise InputError(f"{path}: {len(names)} classes; there can be {MAX_CLASSES} at most")
    every = [value for values in [*ids, ignore] for value in values]
    for what, counts in (("name", Counter(names)), ("id", Counter(every))):
        twice = [value for value, count in counts.items() if count > 1]
        if twice:
            raise InputError(f"{path}: {what} {twice[0]} occurs twice; each belongs to one class, or to `ignore`")
    texts = {
        key: content.get(key, default)
        for key, default in (("images", "images/{split}"), ("masks", "masks/{split}"), ("mask_ending", ".png"))
    }
    for key, value in [*texts.items(), ("list", content.get("list", ""))]:
        if not isinstance(value, str):
            raise InputError(f"{path}: {key} is {value!r}; it must be text")
    mask_colors = [
        given or [pascal_voc_color(value) for value in values] for given, values in zip(given_colors, ids, strict=True)
    ]
    taken = [given[0] for given in given_colors if given]
    missing = iter(distinct_colors(len(names) - len(taken), taken))
    colors = [given[0] if given else next(missing) for given in given_colors]
    return Classes(names, colors, ids, mask_colors, ignore, ignore_colors, list=content.get("list"), **texts)


class Folder(SegDataset):
    """Images and masks in any folders; a mask has the name of its image.

    A mask with one channel, gray or palette, holds class ids; one with three channels holds the classes' colors. Where
    the classes file gives a class no color, color masks are read with Pascal VOC's color of its id.

    Arguments:
        root: the folder that `images` and `masks` of the classes file are relative to.
        split: replaces {split} in them.
        classes: the classes file, or what `read_classes` made of it.
        faults, leave_out: as `SegDataset` takes them.

    Raises:
        InputError: a folder is missing or empty, an image has no mask, or their sizes differ.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: str | Path | Classes,
        transform: Transform | None = None,
        *,
        seed: int = 0,
        limit: int | None = None,
        faults: list[str] | None = None,
        leave_out: Collection[Path] = (),
    ) -> None:
        self.root, self.split = Path(root), split
        self.table = classes if isinstance(classes, Classes) else read_classes(classes)
        self.classes, self.colors = self.table.names, self.table.colors
        self.ids = np.full(256, self.table.ignore[0] if self.table.ignore else IGNORE, np.uint8)
        self.labels_of_ids = np.full(256, UNKNOWN, np.uint8)
        self.labels_of_ids[self.table.ignore] = IGNORE
        for label, values in enumerate(self.table.ids):
            self.ids[label] = values[0]
            self.labels_of_ids[values] = label
        self.folder = self.root / self.table.images.replace("{split}", split)
        self.mask_folder = self.root / self.table.masks.replace("{split}", split)
        super().__init__(self._find_images()[:limit], self._find_mask, transform, seed, faults, leave_out)

    def label_values(self) -> list[object]:
        return [*super().label_values(), self.table.mask_colors, self.table.ignore_colors]

    def read_labels(self, path: Path, rows: int | None = None) -> np.ndarray:
        if is_color(path):
            return self._labels_of_colors(path)
        raw = read_label(path, rows)
        labels = cv2.LUT(raw, self.labels_of_ids)
        if (labels == UNKNOWN).any():
            values, counts = np.unique(raw[labels == UNKNOWN], return_counts=True)
            raise InputError(
                f"{path}: {counts.sum()} pixels are {values[:5].tolist()}, which no class has; list these ids in the "
                "classes file, under a class or under `ignore`"
            )
        return labels

    def _labels_of_colors(self, path: Path) -> np.ndarray:
        pairs = [(color, label) for label, colors in enumerate(self.table.mask_colors) for color in colors]
        pairs = sorted([*pairs, *((color, IGNORE) for color in self.table.ignore_colors)])
        for (one, label), (other, other_label) in pairwise(pairs):
            if one == other and label != other_label:
                raise InputError(
                    f"{path}: is a color mask, and {list(one)} stands for more than one class, or for a class and "
                    "`ignore`; give each its own color in the classes file"
                )
        known = np.array([color for color, _ in pairs]) @ (1 << 16, 1 << 8, 1)
        found = read_colors(path).astype(np.int64) @ (1 << 16, 1 << 8, 1)
        nearest = np.searchsorted(known, found).clip(max=len(known) - 1)
        unlisted = known[nearest] != found
        if unlisted.any():
            values, counts = np.unique(found[unlisted], return_counts=True)
            value = int(values[counts.argmax()])
            raise InputError(
                f"{path}: {counts.sum()} pixels have one of {len(values)} colors that no class has, {counts.max()} of "
                f"them {[value >> 16, value >> 8 & 255, value & 255]}; list it in the classes file, under a class or "
                "under `ignore`; a mask must be saved without loss, as PNG"
            )
        return np.array([label for _, label in pairs], np.uint8)[nearest]

    def prediction_name(self, number: int) -> Path:
        return self.images[number].relative_to(self.folder).with_suffix(".png")

    def find_predictions(self, folder: Path) -> list[Path]:
        files = [folder / self.prediction_name(number) for number in range(len(self))]
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise InputError(f"{missing[0]}: no such prediction ({len(missing)} missing); each image needs one")
        return files

    def _find_images(self) -> list[Path]:
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder; `images` of the classes file says where they are")
        found = image_files(self.folder)
        if self.mask_folder == self.folder:
            found = [path for path in found if not path.name.endswith(self.table.mask_ending)]
        if self.table.list is not None:
            found = self._listed(
                self.table.list, {path.relative_to(self.folder).with_suffix("").as_posix(): path for path in found}
            )
        if not found:
            raise InputError(f"{self.folder}: no images; known are {', '.join(IMAGE_SUFFIXES)}")
        for one, other in pairwise(found):
            if one.with_suffix("") == other.with_suffix(""):
                raise InputError(f"{one}: {other.name} has the same name; a mask must belong to one image")
        return found

    def _listed(self, file: str, found: dict[str, Path]) -> list[Path]:
        """The images that a list file names, one per line, in its order."""
        path = self.root / file.replace("{split}", self.split)
        try:
            names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: the list of images cannot be read ({error})") from error
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError(f"{path}: {missing[0]} is not in {self.folder} (nor are {len(missing) - 1} others)")
        return [found[name] for name in names]

    def _mask_file(self, image: Path) -> Path:
        name = image.relative_to(self.folder).with_suffix("").as_posix()
        return self.mask_folder / (name + self.table.mask_ending)

    def _find_mask(self, image: Path) -> Path:
        path = self._mask_file(image)
        if not path.is_file():
            raise InputError(f"{image}: has no mask; expected {path}")
        return path

    def labels_without_image(self) -> list[Path]:
        if self.table.list is not None:  # the folder holds the masks of other splits too
            return []
        known = {self._mask_file(image) for image in self._find_images()}
        return sorted(path for path in self.mask_folder.rglob(f"*{self.table.mask_ending}") if path not in known)


def _renamed(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a classes file with today's keys in place of older ones."""
    for old, new in OLD_KEYS.items():
        if old in content and new in content:
            raise InputError(f"{path}: has {new} and {old}, its old name; leave {old} out")
    return {OLD_KEYS.get(key, key): value for key, value in content.items()}


def _class(path: Path, number: int, entry: Any) -> tuple[str, list[RGB], list[int]]:
    """Name, given colors (or none) and ids of an entry of `classes`.

    An entry is a name alone, or a table of name, id and color; id and color may be lists of several.
    """
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.keys() - {"name", "id", "color"}:
        raise InputError(f"{path}: class {number} is {entry!r}; write {{name: sky, id: 0, color: [70, 130, 180]}}")
    ids = _ids(path, f"class {entry['name']}", entry.get("id", number))
    if not ids:
        raise InputError(f"{path}: class {entry['name']} has no id")
    if "color" not in entry:
        return entry["name"], [], ids
    colors = entry["color"]
    several = isinstance(colors, list) and bool(colors) and isinstance(colors[0], list)
    what = f"class {entry['name']}"
    return entry["name"], [_color(path, what, color) for color in (colors if several else [colors])], ids


def _color(path: Path, what: str, color: Any) -> RGB:
    if not isinstance(color, list) or len(color) != 3:
        raise InputError(f"{path}: {what}: color is {color!r}; it is [red, green, blue]")
    red, green, blue = _ids(path, f"{what}: color", color)
    return red, green, blue


def _ids(path: Path, what: str, values: Any) -> list[int]:
    values = values if isinstance(values, list) else [values]
    for value in values:
        if type(value) is not int or not 0 <= value <= 255:
            raise InputError(f"{path}: {what}: {value!r} is not a whole number from 0 to 255")
    return values
