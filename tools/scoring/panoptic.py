"""Panoptic quality (PQ): whether segments are found, and how well they fit.

Kirillov et al., arXiv 1801.00868: a predicted and a true segment of one category match where their IoU exceeds 0.5,
so that none has two. PQ of a category is the sum of the matches' IoU over TP + FP / 2 + FN / 2; it is the product of
SQ, the mean IoU of matches, and RQ, their F1. Groups and pixels without a segment count as in the authors' panopticapi.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from backbone.errors import InputError
from seg.data.cityscapes import CLASSES, IGNORE

MATCH_IOU = 0.5
"""Above it segments match."""
THING_CATEGORIES = ("human", "vehicle")
"""Cityscapes' groups of classes whose things are told apart."""


class Truth(NamedTuple):
    """A true segment."""

    category: int
    is_group: bool = False  # of several things: not to be found, and what lies in it is no mistake


class Category(NamedTuple):
    """A row of the table."""

    name: str
    is_thing: bool


class Panoptic(NamedTuple):
    """The segments of an image."""

    read: Callable[[], np.ndarray]  # the id of each pixel, int64 [H, W], 0: none
    segments: dict[int, Truth]  # by id


@dataclass
class Tally:
    """What was found of a category."""

    iou: float = 0.0  # the sum over matches
    matched: int = 0
    extra: int = 0  # predicted segments that match none
    missed: int = 0  # true segments that match none


@dataclass
class PanopticScores:
    """Counts matches image by image."""

    categories: Mapping[int, Category]
    tallies: dict[int, Tally] = field(default_factory=dict)
    images: int = 0

    def add(
        self, truth: np.ndarray, true: Mapping[int, Truth], predicted: np.ndarray, found: Mapping[int, int]
    ) -> None:
        """Counts an image.

        Predicted segments of a category that is no thing are one, however many they are.

        Arguments:
            truth: ids int64 [H, W], 0 where nothing is known.
            true: the segments by id.
            predicted: ids int64 [H, W], 0 for none.
            found: the categories by id.
        """
        first: dict[int, int] = {}  # the id that stands for all of a category that is no thing
        for number, category in found.items():
            if not self.categories[category].is_thing and first.setdefault(category, number) != number:
                predicted = np.where(predicted == number, first[category], predicted)
        self.images += 1
        pairs, counts = np.unique(np.stack([truth.ravel(), predicted.ravel()]), axis=1, return_counts=True)
        common = {(int(one), int(other)): int(count) for (one, other), count in zip(pairs.T, counts, strict=True)}
        true_area, found_area = _sums(common, 0), _sums(common, 1)
        unknown = {number for number in true_area if number not in true}  # 0, and what is in no category
        left_true = {number for number, segment in true.items() if number in true_area and not segment.is_group}
        left_found = {number for number in found if number in found_area}
        outside = dict.fromkeys(left_found, 0)  # pixels of each that no true segment can match
        for (one, other), pixels in common.items():
            if other not in outside:
                continue
            if one in unknown:
                outside[other] += pixels
        for (one, other), pixels in common.items():
            if one not in left_true or other not in left_found or true[one].category != found[other]:
                continue
            iou = pixels / (true_area[one] + found_area[other] - pixels - outside[other])
            if iou > MATCH_IOU:
                tally = self._tally(found[other])
                tally.iou += iou
                tally.matched += 1
                left_true.discard(one)
                left_found.discard(other)
        for number in left_true:
            self._tally(true[number].category).missed += 1
        for number in left_found:
            in_groups = sum(
                pixels
                for (one, other), pixels in common.items()
                if other == number and one in true and true[one].is_group and true[one].category == found[number]
            )
            if (outside[number] + in_groups) / found_area[number] <= MATCH_IOU:
                self._tally(found[number]).extra += 1

    def result(self) -> dict[str, Any]:
        """PQ, SQ and RQ in percent: the means over all categories seen, over things and over the others, and of each.

        Returns:
            `PQ`, `SQ`, `RQ`, the same with `_things` and `_stuff` where there are any, and `categories`: by name these
            three and the counts `matched`, `extra` and `missed`.
        """
        rows = {}
        for number, category in self.categories.items():
            tally = self.tallies.get(number, Tally())
            total = tally.matched + tally.extra / 2 + tally.missed / 2
            if total:
                quality = tally.iou / tally.matched if tally.matched else 0.0
                rows[category] = {
                    "PQ": 100 * tally.iou / total,
                    "SQ": 100 * quality,
                    "RQ": 100 * tally.matched / total,
                    "matched": tally.matched,
                    "extra": tally.extra,
                    "missed": tally.missed,
                }
        means: dict[str, Any] = {}
        for suffix, kinds in (("", (True, False)), ("_things", (True,)), ("_stuff", (False,))):
            chosen = [row for category, row in rows.items() if category.is_thing in kinds]
            if chosen:
                means |= {f"{key}{suffix}": float(np.mean([row[key] for row in chosen])) for key in ("PQ", "SQ", "RQ")}
        return means | {"categories": {category.name: row for category, row in rows.items()}}

    def _tally(self, category: int) -> Tally:
        return self.tallies.setdefault(category, Tally())


def _sums(common: Mapping[tuple[int, int], int], side: int) -> dict[int, int]:
    """The areas of one side's segments, pixels."""
    areas: dict[int, int] = {}
    for pair, pixels in common.items():
        areas[pair[side]] = areas.get(pair[side], 0) + pixels
    return areas


def score(
    truth: Mapping[str, Panoptic], found: Mapping[str, Panoptic], categories: Mapping[int, Category], source: str
) -> dict[str, Any]:
    """`PanopticScores.result` of all images of the truth, and their number as `images`.

    Arguments:
        truth, found: the images by key.
        source: of what was found, for messages.

    Raises:
        InputError: an image was not predicted, has another size, or a category that the truth does not know.
    """
    scores = PanopticScores(categories)
    for key, image in truth.items():
        if key not in found:
            raise InputError(f"{source}: has no image {key}, which the truth has; predict all of the split")
        ids, predicted = image.read(), found[key].read()
        if ids.shape != predicted.shape:
            raise InputError(
                f"{source}: {key} is {_shape(predicted)}, the truth {_shape(ids)}; predict the same images"
            )
        segments = {number: segment.category for number, segment in found[key].segments.items()}
        if strange := set(segments.values()) - categories.keys():
            raise InputError(f"{source}: category {min(strange)} is none of the truth's; the classes must be the same")
        scores.add(ids, image.segments, predicted, segments)
    return {"images": scores.images, **scores.result()}


def _shape(ids: np.ndarray) -> str:
    return "x".join(map(str, ids.shape))


def read_coco(path: Path, key: Callable[[dict[str, Any]], str]) -> tuple[dict[str, Panoptic], dict[int, Category]]:
    """The images of a file of COCO's panoptic json, whose PNGs lie in a folder of its name, and its categories.

    Arguments:
        key: tells the image of an annotation from others.

    Raises:
        InputError: the file cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = {row["id"]: Category(row["name"], bool(row["isthing"])) for row in content["categories"]}
        images = {}
        for entry in content["annotations"]:
            segments = {
                row["id"]: Truth(row["category_id"], bool(row.get("iscrowd", 0))) for row in entry["segments_info"]
            }
            images[key(entry)] = Panoptic(_png(path.with_suffix("") / entry["file_name"]), segments)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no panoptic json of COCO's ({error!r}); tools.predict writes one") from error
    return images, categories


def _png(path: Path) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            with Image.open(path) as image:
                red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error}); predict this image again") from error
        return red + 256 * green + 65536 * blue

    return read


def read_cityscapes(root: Path, split: str) -> tuple[dict[str, Panoptic], dict[int, Category]]:
    """The true segments of Cityscapes' folders, from its instanceIds files, by CITY_SEQUENCE_FRAME; categories.

    Those of its createPanopticImgs: things are people and vehicles; one that could not be told from its neighbors is a
    group; categories are label ids.

    Raises:
        InputError: there are no such files.
    """
    folder = root / "gtFine" / split
    files = sorted(folder.glob("*/*_gtFine_instanceIds.png"))
    if not files:
        raise InputError(f"{folder}: holds no */*_gtFine_instanceIds.png; give a folder like Cityscapes'")
    categories = {
        row.label_id: Category(row.name, row.category in THING_CATEGORIES) for row in CLASSES if row.train_id != IGNORE
    }
    return {frame_name(path.name): _instances(path, categories) for path in files}, categories


def _instances(path: Path, categories: Mapping[int, Category]) -> Panoptic:
    """The segments of an instanceIds file: an id is that of the class, or 1000 times it and a number."""

    def read() -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image).astype(np.int64)

    segments = {}
    for number in np.unique(read()).tolist():
        category = number if number < 1000 else number // 1000
        if category in categories:
            segments[number] = Truth(category, number < 1000 and categories[category].is_thing)
    return Panoptic(read, segments)


def frame_name(name: str) -> str:
    """CITY_SEQUENCE_FRAME of the name of any of Cityscapes' files of an image; another name without its suffix."""
    found = re.match(r"([^/]*?_[0-9]{6}_[0-9]{6})_", name.rpartition("/")[2])
    return found[1] if found else name.rpartition(".")[0]


def averages(scores: Mapping[str, Any]) -> list[list[str]]:
    """Rows of text for the table: PQ, SQ and RQ of all, of things, of the others, and of each category."""
    rows = [
        [name, *(f"{scores[f'{key}{suffix}']:.1f}" for key in ("PQ", "SQ", "RQ")), "", "", ""]
        for name, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff"))
        if f"PQ{suffix}" in scores
    ]
    for name, row in scores["categories"].items():
        rows.append(
            [name, *(f"{row[key]:.1f}" for key in ("PQ", "SQ", "RQ"))]
            + [str(row[key]) for key in ("matched", "extra", "missed")]
        )
    return rows
