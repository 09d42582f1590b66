"""What the check of Cityscapes, or of one's own images and masks, looks for: every file decoded, classes counted."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from backbone.data.images import image_mode, read_bytes, read_image
from backbone.errors import InputError
from seg.data.cityscapes import NAMES, TRAIN_CLASSES
from seg.data.dataset import IGNORE, SegDataset
from seg.data.folder import read_classes
from seg.data.opening import open_data
from seg.options import ANNOTATIONS
from seg.predictor import SegmentationResult
from tools.checks.samples import sheet_path, shrink, spread, write_sheet
from tools.io.console import console, progress, table
from tools.io.files import replace_file
from tools.io.leave_out import write_leave_out
from tools.run.loading import told_in_one_line
from tools.scoring.loaders import each_once

CITIES = {
    "train": {
        "aachen": 174,
        "bochum": 96,
        "bremen": 316,
        "cologne": 154,
        "darmstadt": 85,
        "dusseldorf": 221,
        "erfurt": 109,
        "hamburg": 248,
        "hanover": 196,
        "jena": 119,
        "krefeld": 99,
        "monchengladbach": 94,
        "strasbourg": 365,
        "stuttgart": 196,
        "tubingen": 144,
        "ulm": 95,
        "weimar": 142,
        "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
    "test": {"berlin": 544, "bielefeld": 181, "bonn": 46, "leverkusen": 58, "mainz": 298, "munich": 398},
}
"""Images per city of the real data set: 2975, 500 and 1525."""
NUM_TRAIN_EXTRA = 19998
NUM_SHOWN = 4
CLASSES_ABOVE_18 = [row.train_id for row in TRAIN_CLASSES if row.label_id > 18]
"""Train ids of the classes that a file of train ids under the name of labelIds would seem to lack."""


class Checked(NamedTuple):
    """What was found in one image and its labels."""

    number: int
    size_hw: tuple[int, int] | None  # None where something is wrong
    histogram: np.ndarray  # int64 [256], pixels of each label
    fault: str | None
    mode: str = ""  # Pillow's name of the image's channels and depth
    digests: tuple[str, ...] = ()  # SHA-256 of image and labels, where asked for


class FullDecode(Dataset):
    """Decodes images and labels of a data set to the last byte; a fault is a result, not an error."""

    def __init__(self, dataset: SegDataset, *, hashed: bool) -> None:
        self.dataset, self.hashed = dataset, hashed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Checked:
        files, digests = (self.dataset.images[number], self.dataset.labels[number]), ()
        try:
            if self.hashed:
                digests = tuple(hashlib.sha256(read_bytes(path)).hexdigest() for path in files)
            size_hw, mode = read_image(files[0]).shape[:2], image_mode(files[0])
            labels = self.dataset.read_labels(files[1])
        except InputError as error:
            return Checked(number, None, np.zeros(256, np.int64), str(error), digests=digests)
        return Checked(number, size_hw, np.bincount(labels.reshape(-1), minlength=256), None, mode, digests)


class SplitCheck(NamedTuple):
    """What was found in a split."""

    sizes: Counter  # images by (height, width)
    modes: Counter  # images by Pillow's mode
    pixels: np.ndarray  # int64 [256], of each label
    images: np.ndarray  # int64 [256], with any pixel of each label
    readable: list[int]  # numbers of the images without a fault
    digests: dict[str, str]  # SHA-256 by file, relative to the data set's folder
    faulty: list[Path]  # images that cannot be used


def check_split(dataset: SegDataset, *, workers: int, hashed: bool, faults: list[str]) -> SplitCheck:
    """Decodes a split; faults are added to the list."""
    loader = each_once(FullDecode(dataset, hashed=hashed), workers=workers)
    result = SplitCheck(
        Counter(), Counter(), np.zeros(256, np.int64), np.zeros(256, np.int64), [], {}, list(dataset.unfit)
    )
    with told_in_one_line(workers, training=False), progress() as bar:
        for found in bar.track(loader, total=len(dataset), description="decoding"):
            files = dataset.images[found.number], dataset.labels[found.number]
            for path, digest in zip(files, found.digests, strict=False):
                result.digests[path.relative_to(dataset.root).as_posix()] = digest
            if found.fault is not None:
                faults.append(found.fault)
                result.faulty.append(files[0])
            else:
                result.sizes[found.size_hw] += 1
                result.modes[found.mode] += 1
                result.pixels[:] += found.histogram
                result.images[:] += found.histogram > 0
                result.readable.append(found.number)
    faults += [f"{path}: belongs to no image of the split" for path in dataset.labels_without_image()]
    return result


def check_counts(split: str, cities: Counter, faults: list[str]) -> str:
    """Compares images per city with the real data set's, if any city is one of its; returns what was expected."""
    real = CITIES.get(split, {})
    if cities.keys() & real.keys():
        faults += [
            f"{split}/{city}: {cities[city]} images, the real data set has {count}; copy the city again"
            for city, count in real.items()
            if cities[city] != count
        ]
    if split == "train_extra":
        return f"; the real data set has {NUM_TRAIN_EXTRA}"
    return f"; the real data set has {sum(real.values())}" if real else ""


def check_digests(manifest: Path, digests: dict[str, str], faults: list[str]) -> None:
    """Compares files with a manifest's SHA-256 sums, or writes them into it where it is not there yet."""
    if not manifest.exists():
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        replace_file(manifest, lambda part: part.write_text(lines))
        console.print(f"{len(digests)} sums written to {manifest}", soft_wrap=True)
        return
    try:
        pairs = [line.split("  ", 1) for line in manifest.read_text().splitlines()]
        known = {name: digest for digest, name in pairs}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{manifest}: is not a list of SHA-256 sums ({error}); delete it to write a new one"
        ) from error
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            faults.append(f"{name}: is not the file that {manifest} knows; copy it again")
    unknown = sorted(digests.keys() - known.keys())
    if unknown:
        faults.append(f"{manifest}: lacks {len(unknown)} files, the first {unknown[0]}; delete it to write a new one")


def check(
    root: Path,
    *,
    classes: Path | None = None,
    splits: Sequence[str] | None = None,
    hashes: Path | None = None,
    out: Path | None = None,
    leave_out: Path | None = None,
    workers: int = 2,
) -> list[str]:
    """Checks a data set, prints what it holds, draws samples, and returns the faults, a line each.

    Arguments:
        classes: classes.yaml of one's own data; without it, Cityscapes.
        splits: by default all that Cityscapes' folder holds, else train and val.
        hashes: file of SHA-256 sums to compare with; written if it is not there.
        out: image of samples to write; as `sheet_path` has it.
        leave_out: list of the images that cannot be used, to be written for data.leave_out.
        workers: decoding processes.

    Raises:
        InputError: `root` is no data set, `classes` is faulty, or `out` or `hashes` cannot be read or written.
    """
    splits = splits or (find_splits(root) if classes is None else ["train", "val"])
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the data set's")
    searched = [] if classes is None else [root / read_classes(classes).images.replace("{split}", s) for s in splits]
    out = sheet_path(out, root, searched)
    faults: list[str] = []
    samples: list[list[np.ndarray]] = []
    digests: dict[str, str] = {}
    faulty: list[Path] = []
    places: dict[str, list[str]] = defaultdict(list)  # of images with the same bytes
    for split in splits:
        annotation = next((name for name in ANNOTATIONS if (root / name / split).is_dir()), ANNOTATIONS[0])
        try:
            dataset = open_data(root, split, classes=classes, annotation=annotation, faults=faults)
        except InputError as error:
            faults.append(str(error))
            continue
        found = check_split(dataset, workers=workers, hashed=hashes is not None, faults=faults)
        faulty += found.faulty
        if hashes is not None:
            digests |= found.digests
            for name in (path.relative_to(root).as_posix() for path in dataset.images):
                if name in found.digests:  # a file that cannot be read has none
                    places[found.digests[name]].append(name)
        cities = Counter(path.parent.name for path in dataset.images)
        expected = check_counts(split, cities, faults) if classes is None else ""
        print_split(dataset, cities, found, expected)
        samples += [draw_sample(dataset, number) for number in spread(found.readable, NUM_SHOWN)]
    faults += [f"{names[0]}: is there again as {', '.join(names[1:])}" for names in places.values() if len(names) > 1]
    if hashes is not None:
        check_digests(hashes, digests, faults)
    if leave_out is not None:
        write_leave_out(leave_out, root, faulty)
    if samples:
        write_sheet(out, spread(samples, NUM_SHOWN))
    return faults


def find_splits(root: Path) -> list[str]:
    """The splits that have images or labels."""
    folders = [root / name for name in ("leftImg8bit", *ANNOTATIONS)]
    splits = sorted({path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()})
    if not splits:
        raise InputError(f"{root}: holds no leftImg8bit/SPLIT; for one's own data give --classes FILE")
    return splits


def print_split(dataset: SegDataset, cities: Counter, found: SplitCheck, expected: str) -> None:
    """What a split holds: cities, sizes and classes."""
    console.rule(f"{dataset.split}: {len(dataset)} images with labels{expected}", style="dim")
    sizes = ", ".join(f"{w}x{h}: {count}" for (h, w), count in found.sizes.most_common(5))
    console.print(f"folders: {', '.join(f'{city} {count}' for city, count in sorted(cities.items()))}")
    console.print(f"sizes: {sizes or 'none'}{', …' if len(found.sizes) > 5 else ''}")
    console.print(f"modes: {', '.join(f'{mode} {count}' for mode, count in found.modes.most_common()) or 'none'}")
    if any(mode.startswith("I") for mode in found.modes):
        console.print("note: of 16-bit images only the upper 8 bits are read; dark ones need scaling first")
    total = max(1, found.pixels.sum())
    rows = [
        [name, f"{100 * found.pixels[label] / total:.2f} %", str(found.images[label])]
        for label, name in [*enumerate(dataset.classes), (IGNORE, "(ignored)")]
    ]
    console.print(table("labels", ["class", "pixels", "images"], rows))
    if found.pixels[:IGNORE].sum() == 0:
        console.print("note: no pixel counts; these are dummy labels, as the test split's are")
    elif dataset.classes == NAMES and not found.pixels[CLASSES_ABOVE_18].any():
        console.print("note: no label id above 18 occurs; are these train ids under the name of labelIds?")


def draw_sample(dataset: SegDataset, number: int) -> list[np.ndarray]:
    """An image, its labels, and both, each uint8 BGR as the sheet of samples takes it."""
    image, labels = read_image(dataset.images[number]), dataset.labels_of_image(number)
    result = SegmentationResult(labels, dataset.classes, np.array(dataset.colors, np.uint8))
    return [shrink(part) for part in (image, result.draw(image, 1.0), result.draw(image))]
