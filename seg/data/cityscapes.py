"""Cityscapes: its classes, and its folders as a data set of images and labels."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from backbone.data.images import read_label
from backbone.errors import InputError
from seg.data.dataset import IGNORE, SegDataset, Transform
from seg.data.polygons import draw_polygons, polygons_size
from seg.options import ANNOTATIONS


class CityscapesClass(NamedTuple):
    """One row of the official label table."""

    name: str
    label_id: int
    train_id: int  # 0..18, or 255 for classes that are not evaluated
    category: str
    color: tuple[int, int, int]  # RGB


CLASSES = (
    # name, label_id, train_id, category, color
    CityscapesClass("unlabeled", 0, 255, "void", (0, 0, 0)),
    CityscapesClass("ego vehicle", 1, 255, "void", (0, 0, 0)),
    CityscapesClass("rectification border", 2, 255, "void", (0, 0, 0)),
    CityscapesClass("out of roi", 3, 255, "void", (0, 0, 0)),
    CityscapesClass("static", 4, 255, "void", (0, 0, 0)),
    CityscapesClass("dynamic", 5, 255, "void", (111, 74, 0)),
    CityscapesClass("ground", 6, 255, "void", (81, 0, 81)),
    CityscapesClass("road", 7, 0, "flat", (128, 64, 128)),
    CityscapesClass("sidewalk", 8, 1, "flat", (244, 35, 232)),
    CityscapesClass("parking", 9, 255, "flat", (250, 170, 160)),
    CityscapesClass("rail track", 10, 255, "flat", (230, 150, 140)),
    CityscapesClass("building", 11, 2, "construction", (70, 70, 70)),
    CityscapesClass("wall", 12, 3, "construction", (102, 102, 156)),
    CityscapesClass("fence", 13, 4, "construction", (190, 153, 153)),
    CityscapesClass("guard rail", 14, 255, "construction", (180, 165, 180)),
    CityscapesClass("bridge", 15, 255, "construction", (150, 100, 100)),
    CityscapesClass("tunnel", 16, 255, "construction", (150, 120, 90)),
    CityscapesClass("pole", 17, 5, "object", (153, 153, 153)),
    CityscapesClass("polegroup", 18, 255, "object", (153, 153, 153)),
    CityscapesClass("traffic light", 19, 6, "object", (250, 170, 30)),
    CityscapesClass("traffic sign", 20, 7, "object", (220, 220, 0)),
    CityscapesClass("vegetation", 21, 8, "nature", (107, 142, 35)),
    CityscapesClass("terrain", 22, 9, "nature", (152, 251, 152)),
    CityscapesClass("sky", 23, 10, "sky", (70, 130, 180)),
    CityscapesClass("person", 24, 11, "human", (220, 20, 60)),
    CityscapesClass("rider", 25, 12, "human", (255, 0, 0)),
    CityscapesClass("car", 26, 13, "vehicle", (0, 0, 142)),
    CityscapesClass("truck", 27, 14, "vehicle", (0, 0, 70)),
    CityscapesClass("bus", 28, 15, "vehicle", (0, 60, 100)),
    CityscapesClass("caravan", 29, 255, "vehicle", (0, 0, 90)),
    CityscapesClass("trailer", 30, 255, "vehicle", (0, 0, 110)),
    CityscapesClass("train", 31, 16, "vehicle", (0, 80, 100)),
    CityscapesClass("motorcycle", 32, 17, "vehicle", (0, 0, 230)),
    CityscapesClass("bicycle", 33, 18, "vehicle", (119, 11, 32)),
)

TRAIN_CLASSES = tuple(sorted((row for row in CLASSES if row.train_id != IGNORE), key=lambda row: row.train_id))
NAMES = [row.name for row in TRAIN_CLASSES]
"""The 19 evaluated classes, in the order of their train ids."""
COLORS = [row.color for row in TRAIN_CLASSES]
"""Their colors, RGB."""

INVALID = 254
"""In the tables below, the entry for values that may not occur in a Cityscapes file."""


def _table(pairs: list[tuple[int, int]]) -> np.ndarray:
    table = np.full(256, INVALID, np.uint8)
    for value, mapped in pairs:
        table[value] = mapped
    return table


TRAIN_ID_OF_LABEL_ID = _table([(row.label_id, row.train_id) for row in CLASSES])
TRAIN_ID_OF_TRAIN_ID = _table([(i, i) for i in range(len(NAMES))] + [(IGNORE, IGNORE)])
LABEL_ID_OF_TRAIN_ID = _table([(row.train_id, row.label_id) for row in TRAIN_CLASSES] + [(IGNORE, 0)])
"""uint8 [256] lookup tables: `TABLE[map]` translates a map of any shape."""
LABEL_ID_OF_NAME = {row.name: row.label_id for row in CLASSES}

LABEL_FILES = ("_labelIds.png", "_labelTrainIds.png", "_polygons.json")
"""Endings of label files' names, the preferred one first."""


class Cityscapes(SegDataset):
    """`ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.{png,jpg}` with `ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.

    Labels are read from labelIds files, else from labelTrainIds files, else drawn from polygons files. `instances` are
    the instanceIds files where every image has one, else None.

    Arguments:
        annotation: "gtFine", or "gtCoarse" for the coarse labels (`ROOT/gtCoarse/SPLIT/CITY/*_gtCoarse_labelIds.png`).
        faults, leave_out: as `SegDataset` takes them.

    Raises:
        InputError: a folder is missing or empty, an image has no label, or their sizes differ.
    """

    classes = NAMES
    colors = COLORS
    ids = LABEL_ID_OF_TRAIN_ID
    labels_of_ids = TRAIN_ID_OF_LABEL_ID

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Transform | None = None,
        *,
        annotation: str = "gtFine",
        seed: int = 0,
        limit: int | None = None,
        faults: list[str] | None = None,
        leave_out: Collection[Path] = (),
    ) -> None:
        if annotation not in ANNOTATIONS:
            raise InputError(f"annotation {annotation!r} unknown; valid: {', '.join(ANNOTATIONS)}")
        self.root, self.split, self.annotation = Path(root), split, annotation
        images = find_images(self.root, split)[:limit]
        super().__init__(images, self._find_label, transform, seed, faults, leave_out)
        instances = [self._label_file(image, "_instanceIds.png") for image in self.images]
        self.instances = instances if all(path.is_file() for path in instances) else None

    def _label_file(self, image: Path, ending: str) -> Path:
        folder = self.root / self.annotation / self.split / image.parent.name
        return folder / f"{frame_name(image)}_{self.annotation}{ending}"

    def _find_label(self, image: Path) -> Path:
        candidates = [self._label_file(image, ending) for ending in LABEL_FILES]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            others = ", ".join(f"…{ending}" for ending in LABEL_FILES[1:])
            coarse = "; train_extra has labels in gtCoarse only" if self.split == "train_extra" else ""
            raise InputError(f"{image}: has no label; expected {candidates[0]} (or {others}){coarse}")
        return found

    def labels_without_image(self) -> list[Path]:
        frames = {frame_name(path) for path in find_images(self.root, self.split)}
        return sorted(
            path
            for ending in LABEL_FILES
            for path in (self.root / self.annotation / self.split).glob(f"*/*_{self.annotation}{ending}")
            if path.name.removesuffix(f"_{self.annotation}{ending}") not in frames
        )

    def label_size(self, path: Path) -> tuple[int, int]:
        return polygons_size(path) if path.suffix == ".json" else super().label_size(path)

    def read_labels(self, path: Path, rows: int | None = None) -> np.ndarray:
        return read_train_ids(path, rows)

    @cached_property
    def shared_names(self) -> set[str]:
        """Names of frames that several cities have; Cityscapes has none, whose names begin with the city."""
        counts = Counter(frame_name(image) for image in self.images)
        return {name for name, count in counts.items() if count > 1}

    def prediction_name(self, number: int) -> Path:
        image = self.images[number]
        file = f"{frame_name(image)}_pred_labelIds.png"
        return Path(image.parent.name, file) if frame_name(image) in self.shared_names else Path(file)

    def find_predictions(self, folder: Path) -> list[Path]:
        found = sorted(folder.rglob("*.png"), key=lambda path: path.name)
        names = [path.name for path in found]
        chosen = []
        for image in self.images:
            name, city = frame_name(image), image.parent.name
            # Those whose names begin with the frame's, as the official evaluation has it; sorted, they are neighbours.
            files = found[bisect_left(names, name) : bisect_left(names, f"{name}\U0010ffff")]
            if name in self.shared_names:
                files = [path for path in files if path.parent.name == city]
                name = f"{city}/{name}"
            if len(files) != 1:
                raise InputError(f"{folder}: {len(files)} files {name}*.png; there must be one prediction per image")
            chosen += files
        return chosen


def find_images(root: Path, split: str) -> list[Path]:
    """All images of a split, sorted by city and name."""
    folder = root / "leftImg8bit" / split
    if not folder.is_dir():
        valid = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        hint = f"splits there: {', '.join(valid)}" if valid else "data.root must hold leftImg8bit/ and gtFine/"
        if not valid and (root / "leftImg16bit").is_dir():
            hint = "leftImg16bit/ is not read; get leftImg8bit_trainvaltest.zip"
        raise InputError(f"{folder}: no such folder; {hint}")
    images = sorted(path for suffix in ("png", "jpg") for path in folder.glob(f"*/*_leftImg8bit.{suffix}"))
    if not images:
        raise InputError(f"{folder}: no images; they must be named CITY/*_leftImg8bit.png or .jpg")
    return images


def frame_name(image: Path) -> str:
    """`berlin_000000_000019` for `…/berlin_000000_000019_leftImg8bit.png`."""
    return image.stem.removesuffix("_leftImg8bit")


def read_train_ids(path: Path, rows: int | None = None) -> np.ndarray:
    """A labelIds, labelTrainIds or polygons file as train ids, uint8 [H, W]; `rows` as `read_label` takes it."""
    if path.suffix == ".json":
        return TRAIN_ID_OF_LABEL_ID[draw_polygons(path, LABEL_ID_OF_NAME)]
    table = TRAIN_ID_OF_TRAIN_ID if path.name.endswith("_labelTrainIds.png") else TRAIN_ID_OF_LABEL_ID
    raw = read_label(path, rows)
    labels = cv2.LUT(raw, table)
    if (labels == INVALID).any():
        values, counts = np.unique(raw[labels == INVALID], return_counts=True)
        kind = "train ids 0..18 and 255" if table is TRAIN_ID_OF_TRAIN_ID else "Cityscapes label ids 0..33"
        cure = "see gtFine's naming"
        if table is TRAIN_ID_OF_LABEL_ID and values.tolist() == [IGNORE]:
            cure = "only train ids have 255: name such files …_labelTrainIds.png"
        raise InputError(f"{path}: {counts.sum()} pixels are {values[:5].tolist()}, which are not {kind}; {cure}")
    return labels
