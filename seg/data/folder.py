"""One's own images and masks as a data set: any folders, and a YAML file that says which and names the classes."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

from backbone.data.images import IMAGE_SUFFIXES, is_color, read_colors, read_label
from backbone.errors import InputError
from seg.data.dataset import IGNORE, SegDataset, Transform

MAX_CLASSES = 254  # a label fits into a byte beside IGNORE and the mark of values that are neither class nor ignored
UNKNOWN = 254
KEYS = {"classes", "ignore", "images", "masks", "mask_ending", "list"}


class Classes(NamedTuple):
    """What a classes.yaml says."""

    names: list[str]
    colors: list[list[tuple[int, int, int]]]  # RGB, as masks of colors hold them; results are drawn in the first
    ids: list[list[int]]  # the values in masks that stand for each class; predictions are written as the first
    ignore: list[int]  # values in masks that do not count
    ignore_colors: list[tuple[int, int, int]]  # RGB, in masks of colors
    images: str  # folder of images, {split} standing for the split
    masks: str  # folder of masks
    mask_ending: str  # what a mask's name has in place of its image's suffix
    list: str | None  # text file of the split's image names; without it, all images in the folder


def palette_color(number: int) -> tuple[int, int, int]:
    """RGB color of a class in Pascal VOC's palette: the bits of the number, spread over the channels."""
    channels = [0, 0, 0]
    for position in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * position + channel) & 1) << (7 - position)
    return tuple(channels)


def read_classes(path: str | Path) -> Classes:
    """Reads a classes.yaml; see the README for what it holds.

    Raises:
        InputError: it cannot be read, a key is unknown, or names or ids are wrong or occur twice.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list) or not content["classes"]:
        raise InputError(f"{path}: needs a list `classes`, e.g. classes: [{{name: sky, id: 0}}, {{name: tree, id: 1}}]")
    unknown = sorted(map(str, content.keys() - KEYS))
    if unknown:
        raise InputError(f"{path}: unknown key {unknown[0]}; valid: {', '.join(sorted(KEYS))}")
    names, colors, ids = [], [], []
    for number, entry in enumerate(content["classes"]):
        name, class_colors, values = _class(path, number, entry)
        names.append(name)
        colors.append(class_colors)
        ids.append(values)
    ignored = content.get("ignore", [IGNORE])
    ignored = ignored if isinstance(ignored, list) else [ignored]
    ignore = _ids(path, "ignore", [entry for entry in ignored if not isinstance(entry, list)])
    ignore_colors = [palette_color(value) for value in ignore]
    ignore_colors += [_color(path, "ignore", entry) for entry in ignored if isinstance(entry, list)]
    if len(names) > MAX_CLASSES:
        raise InputError(f"{path}: {len(names)} classes; there can be {MAX_CLASSES} at most")
    every = [value for values in [*ids, ignore] for value in values]
    for what, values in (("name", names), ("id", every)):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise InputError(f"{path}: {what} {twice[0]} occurs twice; each belongs to one class, or to `ignore`")
    texts = {
        key: content.get(key, default)
        for key, default in (("images", "images/{split}"), ("masks", "masks/{split}"), ("mask_ending", ".png"))
    }
    for key, value in [*texts.items(), ("list", content.get("list", ""))]:
        if not isinstance(value, str):
            raise InputError(f"{path}: {key} is {value!r}; it must be text")
    return Classes(names, colors, ids, ignore, ignore_colors, list=content.get("list"), **texts)


class Folder(SegDataset):
    """Images and masks in any folders; a mask is named as its image, and is one of two things.

    A grey or palette PNG holds class ids, one with three channels the classes' colors.

    Arguments:
        root: the folder that `images` and `masks` of the classes file are relative to.
        split: takes the place of {split} in them.
        classes: the classes file, or what `read_classes` made of it.
        faults: as `SegDataset` takes it.

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
    ) -> None:
        self.root, self.split = Path(root), split
        self.table = classes if isinstance(classes, Classes) else read_classes(classes)
        self.classes, self.colors = self.table.names, [colors[0] for colors in self.table.colors]
        self.ids = np.full(256, self.table.ignore[0] if self.table.ignore else IGNORE, np.uint8)
        self.labels_of_ids = np.full(256, UNKNOWN, np.uint8)
        self.labels_of_ids[self.table.ignore] = IGNORE
        for label, values in enumerate(self.table.ids):
            self.ids[label] = values[0]
            self.labels_of_ids[values] = label
        self.folder = self.root / self.table.images.replace("{split}", split)
        self.mask_folder = self.root / self.table.masks.replace("{split}", split)
        super().__init__(self._find_images()[:limit], self._find_mask, transform, seed, faults)

    def label_values(self) -> list[object]:
        return [*super().label_values(), self.table.colors, self.table.ignore_colors]

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
        pairs = [(color, label) for label, colors in enumerate(self.table.colors) for color in colors]
        pairs = sorted([*pairs, *((color, IGNORE) for color in self.table.ignore_colors)])
        for (one, label), (other, other_label) in pairwise(pairs):
            if one == other and label != other_label:
                raise InputError(
                    f"{path}: is a mask of colors, and {list(one)} stands for more than one class, or for a class and "
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
        found = sorted(
            path for path in self.folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        )
        if self.mask_folder == self.folder:
            found = [path for path in found if not path.name.endswith(self.table.mask_ending)]
        if self.table.list is not None:
            found = self._listed({path.relative_to(self.folder).with_suffix("").as_posix(): path for path in found})
        if not found:
            raise InputError(f"{self.folder}: no images; known are {', '.join(IMAGE_SUFFIXES)}")
        for one, other in pairwise(found):
            if one.with_suffix("") == other.with_suffix(""):
                raise InputError(f"{one}: {other.name} has the same name; a mask must belong to one image")
        return found

    def _listed(self, found: dict[str, Path]) -> list[Path]:
        path = self.root / self.table.list.replace("{split}", self.split)
        try:
            names = path.read_text().split()
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


def _class(path: Path, number: int, entry: Any) -> tuple[str, list[tuple[int, int, int]], list[int]]:
    """A row of `classes`: a name alone, or a table of name, id and color, both of these one or a list of several."""
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.keys() - {"name", "id", "color"}:
        raise InputError(f"{path}: class {number} is {entry!r}; write {{name: sky, id: 0, color: [70, 130, 180]}}")
    ids = _ids(path, f"class {entry['name']}", entry.get("id", number))
    if not ids:
        raise InputError(f"{path}: class {entry['name']} has no id")
    colors = entry.get("color", [list(palette_color(value)) for value in ids])
    several = isinstance(colors, list) and bool(colors) and isinstance(colors[0], list)
    what = f"class {entry['name']}"
    return entry["name"], [_color(path, what, color) for color in (colors if several else [colors])], ids


def _color(path: Path, what: str, color: Any) -> tuple[int, int, int]:
    if not isinstance(color, list) or len(color) != 3:
        raise InputError(f"{path}: {what}: color is {color!r}; it is [red, green, blue]")
    return tuple(_ids(path, f"{what}: color", color))


def _ids(path: Path, what: str, values: Any) -> list[int]:
    values = values if isinstance(values, list) else [values]
    for value in values:
        if type(value) is not int or not 0 <= value <= 255:
            raise InputError(f"{path}: {what}: {value!r} is not a whole number from 0 to 255")
    return values
