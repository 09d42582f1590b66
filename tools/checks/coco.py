"""What the check of COCO, or of data in its layout, looks for: every image decoded, every box inside its image."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from backbone.data.images import image_files, read_image
from backbone.errors import InputError
from det.data.annotations import annotation_file, check_file_name, image_folder, is_scored, read_annotations
from det.data.coco import MIN_BOX_SIDE
from det.predictor import DetectionResult
from tools.checks.samples import CELL_HW, sheet_path, shrink, spread, write_sheet
from tools.io.console import console, progress, table
from tools.io.leave_out import write_leave_out
from tools.run.loading import told_in_one_line
from tools.scoring.loaders import each_once

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of the area of small and of medium objects, in pixels."""
NUM_SHOWN = 6
MARGIN = 0.5
"""Boxes may pass the image's edge by this many pixels: annotators' and converters' rounding."""


class FullDecode(Dataset):
    """Decodes images to the last byte; an item is its size (height, width), or the fault as text."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[int, int] | str:
        try:
            return read_image(self.paths[number]).shape[:2]
        except InputError as error:
            return str(error)


class SplitCheck(NamedTuple):
    """What was found in a split."""

    sizes: Counter  # images by (height, width)
    readable: list[int]  # positions in "images" of the images without a fault
    faulty: list[Path]  # images that cannot be used


def check_images(content: dict[str, Any], folder: Path, *, whole: bool, workers: int, faults: list[str]) -> SplitCheck:
    """Decodes the images of an annotation file and compares their sizes; faults are added to the list.

    Arguments:
        content: of the annotation file, as `det.data.annotations.check_annotations` accepts it.
        whole: the folder holds this split alone, so that an image which is not listed is a fault.
    """
    paths, positions, listed = [], [], set()
    result = SplitCheck(Counter(), [], [])
    folder = folder.resolve()
    for position, row in enumerate(content["images"]):
        try:
            path = check_file_name(row["file_name"], folder, f"images[{position}]")
        except InputError as error:
            faults.append(str(error))
            continue
        if path in listed:
            faults.append(f"images[{position}].file_name {row['file_name']!r} is listed twice; remove one entry")
        elif not path.is_file():
            faults.append(f"{path}: listed in images[{position}] but missing; copy it again or remove the entry")
            result.faulty.append(path)
        else:
            paths.append(path)
            positions.append(position)
        listed.add(path)
    if whole:
        present = {path.resolve() for path in image_files(folder)}
        faults += [f"{path}: is not in the annotations; list it or move it away" for path in sorted(present - listed)]

    loader = each_once(FullDecode(paths), workers=workers)
    with told_in_one_line(workers, training=False), progress() as bar:
        found = bar.track(loader, total=len(paths), description="decoding")
        for path, position, size_hw in zip(paths, positions, found, strict=True):
            row = content["images"][position]
            if isinstance(size_hw, str):
                faults.append(size_hw)
                result.faulty.append(path)
            elif size_hw != (row["height"], row["width"]):
                sizes = f"{size_hw[1]}x{size_hw[0]}, images[{position}] says {row['width']}x{row['height']}"
                faults.append(f"{path}: is {sizes}; correct the annotations or the image")
                result.faulty.append(path)
            else:
                result.sizes[size_hw] += 1
                result.readable.append(position)
    return result


def check_boxes(content: dict[str, Any]) -> list[str]:
    """A fault for every box that is not finite, has no size, is outside its image, passes its edge, or occurs twice.

    `content` is as `det.data.annotations.check_annotations` accepts it.
    """
    sizes = {row["id"]: (row["width"], row["height"]) for row in content["images"]}
    faults, seen = [], {}
    for number, row in enumerate(content["annotations"]):
        box, where = row["bbox"], f"annotations[{number}].bbox {row['bbox']}"
        if not np.isfinite(box).all():
            faults.append(f"{where} is not finite; remove the annotation")
            continue
        left, top, width, height = box
        image_width, image_height = sizes[row["image_id"]]
        beyond = max(-left, -top, left + width - image_width, top + height - image_height)
        key = (row["image_id"], row["category_id"], *box)
        if width < MIN_BOX_SIDE or height < MIN_BOX_SIDE:
            faults.append(
                f"{where} is under {MIN_BOX_SIDE:g} pixel wide or high and is not trained on; is it x, y, w, h?"
            )
        elif left >= image_width or top >= image_height or left + width <= 0 or top + height <= 0:
            faults.append(f"{where} is outside its {image_width}x{image_height} image; correct or remove it")
        elif beyond > MARGIN:
            faults.append(
                f"{where} passes the edge of its {image_width}x{image_height} image by {beyond:g} pixels; "
                "correct it (is it x, y, w, h?)"
            )
        elif key in seen:
            faults.append(f"{where} is the same as annotations[{seen[key]}]; remove one")
        seen.setdefault(key, number)
    return faults


def check(
    root: Path,
    *,
    splits: Sequence[str] | None = None,
    out: Path | None = None,
    leave_out: Path | None = None,
    workers: int = 2,
) -> list[str]:
    """Checks a data set, prints what it holds, draws samples, and returns the faults, a line each.

    Arguments:
        splits: by default as `find_splits` finds them.
        out: image of samples to write; as `sheet_path` has it.
        leave_out: list of the images that cannot be used, to be written for data.leave_out.
        workers: decoding processes.

    Raises:
        InputError: `root` is no data set, or `out` cannot be written.
    """
    splits = splits or find_splits(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the data set's")
    out = sheet_path(out, root, [image_folder(root, split) for split in splits])
    faults: list[str] = []
    faulty: list[Path] = []
    samples: list[np.ndarray] = []
    for split in splits:
        file, folder = annotation_file(root, split), image_folder(root, split)
        try:
            content = read_annotations(file)
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder of images; each split has one of its name")
        except InputError as error:
            faults.append(str(error))
            continue
        own: list[str] = []
        # The images of test-dev2017 are some of those of test2017.
        found = check_images(content, folder, whole=folder.name == split, workers=workers, faults=own)
        faulty += found.faulty
        own += check_boxes(content)
        names = Counter(row["name"] for row in content["categories"])
        own += [
            f"categories: {count} have the name {name!r}; rename them" for name, count in names.items() if count > 1
        ]
        faults += [fault if fault.startswith(str(folder.resolve())) else f"{file}: {fault}" for fault in own]
        print_split(split, content, found, scored=is_scored(file))
        samples += [draw_sample(content, position, folder) for position in spread(found.readable, NUM_SHOWN)]
    if leave_out is not None:
        write_leave_out(leave_out, root, faulty)
    if samples:
        chosen = spread(samples, NUM_SHOWN)
        write_sheet(out, [chosen[first : first + 2] for first in range(0, len(chosen), 2)])
    return faults


def find_splits(root: Path) -> list[str]:
    """The splits that have annotations, and of those without boxes the ones that have images."""
    found = {}
    for kind in ("instances", "image_info"):
        for file in sorted((root / "annotations").glob(f"{kind}_*.json")):
            found[file.stem.removeprefix(f"{kind}_")] = kind
    splits = [split for split, kind in found.items() if kind == "instances" or image_folder(root, split).is_dir()]
    if not splits:
        raise InputError(f"{root}: holds no annotations/instances_SPLIT.json; tools.convert_annotations writes one")
    return splits


def print_split(split: str, content: dict[str, Any], found: SplitCheck, *, scored: bool) -> None:
    """Prints what a split holds: sizes of images, and, where boxes are not secret, boxes by class and size."""
    rows = [row for row in content["annotations"] if np.isfinite(row["bbox"]).all()]
    images = len(content["images"])
    boxes = f"{len(content['annotations'])} boxes" if scored else "boxes are secret"
    console.rule(f"{split}: {images} images, {boxes}", style="dim")
    sizes = ", ".join(f"{w}x{h}: {count}" for (h, w), count in found.sizes.most_common(5))
    console.print(f"sizes: {sizes or 'none'}{', …' if len(found.sizes) > 5 else ''}")
    if not scored:
        console.print(f"{len(content['categories'])} classes; category ids: {_spans(content)}")
        return
    empty = images - len({row["image_id"] for row in content["annotations"]})
    crowds = sum(row.get("iscrowd", 0) for row in rows)
    console.print(f"images without a box: {empty}; crowds: {crowds}; category ids: {_spans(content)}")
    counts = {row["id"]: np.zeros(4, int) for row in content["categories"]}
    holders: dict[int, set[int]] = {row["id"]: set() for row in content["categories"]}
    for row in rows:
        area = row.get("area", row["bbox"][2] * row["bbox"][3])
        counts[row["category_id"]] += [1, area < SMALL, SMALL <= area < MEDIUM, area >= MEDIUM]
        holders[row["category_id"]].add(row["image_id"])
    lines = [
        [row["name"], str(row["id"]), *map(str, counts[row["id"]]), str(len(holders[row["id"]]))]
        for row in content["categories"]
    ]
    total = np.sum(list(counts.values()), axis=0)
    lines.append(["all", "", *map(str, total), str(len(set().union(*holders.values())))])
    console.print(table("boxes", ["class", "id", "boxes", "small", "medium", "large", "images"], lines))
    absent = [row["name"] for row in content["categories"] if not counts[row["id"]][0]]
    if absent:
        console.print(f"note: no box of {', '.join(absent[:5])}{', …' if len(absent) > 5 else ''}")


def _spans(content: dict[str, Any]) -> str:
    ids = sorted(row["id"] for row in content["categories"])
    gaps = ids[-1] - ids[0] + 1 - len(ids)
    return f"{ids[0]} to {ids[-1]}" + (f" with {gaps} unused" if gaps else "")


def draw_sample(content: dict[str, Any], position: int, folder: Path) -> np.ndarray:
    """An image with its boxes, uint8 BGR, as the sheet of samples takes it."""
    row = content["images"][position]
    label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
    mine = [a for a in content["annotations"] if a["image_id"] == row["id"] and np.isfinite(a["bbox"]).all()]
    small = shrink(read_image(folder / row["file_name"]))
    boxes = np.array([annotation["bbox"] for annotation in mine], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scale = small.shape[1] / row["width"]
    result = DetectionResult(
        (boxes * scale).clip(0, 2 * max(CELL_HW)).astype(np.float32),
        np.ones(len(mine), np.float32),
        np.array([label_of[annotation["category_id"]] for annotation in mine], np.int64),
        [category["name"] for category in content["categories"]],
    )
    return result.draw(small, show_scores=False)
