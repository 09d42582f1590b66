"""Checks a copy of COCO, or one's own data in its layout: every image is decoded, every fault gets a line.

    python -m tools.check_coco /data/coco
    python -m tools.check_coco /data/coco --split val2017 --workers 4
    python -m tools.check_coco /data/coco --split val2017 --out runs/val2017.png

Prints boxes per class and size, crowds and sizes of images, and writes an image of samples with their boxes.
Exit code 1 if something is wrong.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rich.markup import escape
from torch.utils.data import DataLoader, Dataset

from backbone.data.images import IMAGE_SUFFIXES, read_image
from backbone.errors import InputError
from det.data.annotations import check_annotations, check_file_name, read_json
from det.data.coco import MIN_BOX_SIDE
from det.predictor import DetectionResult
from tools.io.console import console, num_workers, progress, run, table
from tools.io.files import replace_file
from tools.run.loop import single_thread

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of the area of small and of medium objects, in pixels."""
NUM_SHOWN = 6
SHOWN_HW = (320, 480)
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


def check_images(content: dict[str, Any], folder: Path, *, workers: int, faults: list[str]) -> SplitCheck:
    """Decodes the images of an annotation file and compares their sizes; faults are added to the list."""
    paths, positions, listed = [], [], set()
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
        else:
            paths.append(path)
            positions.append(position)
        listed.add(path)
    present = {path.resolve() for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES}
    faults += [f"{path}: is not in the annotations; list it or move it away" for path in sorted(present - listed)]

    loader = DataLoader(
        FullDecode(paths), batch_size=None, num_workers=workers, worker_init_fn=single_thread, collate_fn=unchanged
    )
    result = SplitCheck(Counter(), [])
    with progress() as bar:
        found = bar.track(loader, total=len(paths), description="decoding")
        for path, position, size_hw in zip(paths, positions, found, strict=True):
            row = content["images"][position]
            if isinstance(size_hw, str):
                faults.append(size_hw)
            elif size_hw != (row["height"], row["width"]):
                sizes = f"{size_hw[1]}x{size_hw[0]}, images[{position}] says {row['width']}x{row['height']}"
                faults.append(f"{path}: is {sizes}; correct the annotations or the image")
            else:
                result.sizes[size_hw] += 1
                result.readable.append(position)
    return result


def unchanged(found: tuple[int, int] | str) -> tuple[int, int] | str:
    """What the loader does with a result: nothing, other than by default."""
    return found


def check_boxes(content: dict[str, Any]) -> list[str]:
    """A fault for every box that is not finite, has no size, is outside its image, passes its edge, or occurs twice.

    `content` is as `det.annotations.check_annotations` accepts it.
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_coco", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder with annotations/ and one folder of images per split")
    parser.add_argument("--split", nargs="+", help="default: all of annotations/instances_SPLIT.json")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/samples.png"), help="image to write; default: runs/samples.png"
    )
    parser.add_argument("--workers", type=num_workers, default=2, help="decoding processes; default: 2")
    arguments = parser.parse_args(argv)
    if arguments.workers < 0:
        raise InputError(f"--workers {arguments.workers}: must not be negative")

    faults, samples = [], []
    for split in arguments.split or find_splits(arguments.root):
        file, folder = arguments.root / "annotations" / f"instances_{split}.json", arguments.root / split
        try:
            content = read_json(file)
            check_annotations(content, str(file))
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder of images; each split has one of its name")
        except InputError as error:
            faults.append(str(error))
            continue
        own: list[str] = []
        found = check_images(content, folder, workers=arguments.workers, faults=own)
        own += check_boxes(content)
        names = Counter(row["name"] for row in content["categories"])
        own += [
            f"categories: {count} have the name {name!r}; rename them" for name, count in names.items() if count > 1
        ]
        faults += [fault if fault.startswith(str(folder.resolve())) else f"{file}: {fault}" for fault in own]
        print_split(split, content, found)
        chosen = found.readable[:: max(1, len(found.readable) // NUM_SHOWN)][:NUM_SHOWN]
        samples += [draw_sample(content, position, folder) for position in chosen]
    if samples:
        samples = samples[:: max(1, len(samples) // NUM_SHOWN)][:NUM_SHOWN]
        samples += [np.zeros_like(samples[0])] * (len(samples) % 2)
        sheet = np.vstack([np.hstack(samples[number : number + 2]) for number in range(0, len(samples), 2)])
        png = cv2.imencode(".png", sheet)[1].tobytes()
        replace_file(arguments.out, lambda part: part.write_bytes(png))
        console.print(f"samples: {arguments.out}", soft_wrap=True)
    for fault in faults:
        print(f"fault: {fault}")
    print(f"{len(faults)} fault{'s' if len(faults) > 1 else ''}" if faults else "no faults")
    return 1 if faults else 0


def find_splits(root: Path) -> list[str]:
    """The splits that have annotations."""
    files = sorted((root / "annotations").glob("instances_*.json"))
    if not files:
        raise InputError(f"{root}: holds no annotations/instances_SPLIT.json; tools.convert_annotations writes one")
    return [file.stem.removeprefix("instances_") for file in files]


def print_split(split: str, content: dict[str, Any], found: SplitCheck) -> None:
    """What a split holds: sizes of images, and boxes by class and size."""
    rows = [row for row in content["annotations"] if np.isfinite(row["bbox"]).all()]
    images = len(content["images"])
    console.rule(f"{escape(split)}: {images} images, {len(content['annotations'])} boxes", style="dim")
    sizes = ", ".join(f"{w}x{h}: {count}" for (h, w), count in found.sizes.most_common(5))
    console.print(f"sizes: {sizes or 'none'}{', …' if len(found.sizes) > 5 else ''}")
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
        [escape(row["name"]), str(row["id"]), *map(str, counts[row["id"]]), str(len(holders[row["id"]]))]
        for row in content["categories"]
    ]
    total = sum(counts.values())
    lines.append(["all", "", *map(str, total), str(len(set().union(*holders.values())))])
    console.print(table("boxes", ["class", "id", "boxes", "small", "medium", "large", "images"], lines))
    absent = [row["name"] for row in content["categories"] if not counts[row["id"]][0]]
    if absent:
        console.print(f"note: no box of {escape(', '.join(absent[:5]))}{', …' if len(absent) > 5 else ''}")


def _spans(content: dict[str, Any]) -> str:
    ids = sorted(row["id"] for row in content["categories"])
    gaps = ids[-1] - ids[0] + 1 - len(ids)
    return f"{ids[0]} to {ids[-1]}" + (f" with {gaps} unused" if gaps else "")


def draw_sample(content: dict[str, Any], position: int, folder: Path) -> np.ndarray:
    """An image with its boxes, fitted into a uint8 BGR [*SHOWN_HW, 3]."""
    row = content["images"][position]
    label_of = {category["id"]: label for label, category in enumerate(content["categories"])}
    mine = [a for a in content["annotations"] if a["image_id"] == row["id"] and np.isfinite(a["bbox"]).all()]
    image = read_image(folder / row["file_name"])
    height, width = image.shape[:2]
    scale = min(SHOWN_HW[0] / height, SHOWN_HW[1] / width)
    small = cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    boxes = np.array([annotation["bbox"] for annotation in mine], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    result = DetectionResult(
        (boxes * scale).clip(0, 2 * max(SHOWN_HW)).astype(np.float32),
        np.ones(len(mine), np.float32),
        np.array([label_of[annotation["category_id"]] for annotation in mine], np.int64),
        [category["name"] for category in content["categories"]],
    )
    canvas = np.zeros((*SHOWN_HW, 3), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = result.draw(small, show_scores=False)
    return canvas


if __name__ == "__main__":
    run(main)
