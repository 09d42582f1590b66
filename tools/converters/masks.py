"""Decodes images and their labels once, into arrays that training maps into memory (see `seg.data.prepared`)."""

import json
import shutil
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from backbone.errors import InputError
from seg.data.dataset import IGNORE, SegDataset
from seg.data.prepared import FORMAT, content_key
from tools.io.console import console, progress
from tools.io.files import replace_file
from tools.run.loading import told_in_one_line
from tools.scoring.loaders import each_once

HEADER = 128
"""Bytes of a .npy file before the array."""


class Decode(Dataset):
    """Item i decodes the image `numbers[i]` and its labels into `folder`, and is the bytes written."""

    def __init__(self, dataset: SegDataset, numbers: list[int], folder: Path) -> None:
        self.dataset, self.numbers, self.folder = dataset, numbers, folder

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> int:
        number = self.numbers[position]
        key = content_key(self.dataset, number)  # of the files as they are before they are read
        arrays = self.dataset.read(number)
        for path, array in zip(array_files(self.folder, key), arrays, strict=True):
            replace_file(path, lambda part, array=array: write_array(part, array))
        return sum(array.nbytes for array in arrays)


def array_files(folder: Path, key: str) -> tuple[Path, Path]:
    """Where an image and its labels are kept."""
    return folder / f"{key}.image.npy", folder / f"{key}.labels.npy"


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file under any name; `np.save` would add the suffix."""
    with path.open("wb") as file:
        np.save(file, array)


def is_whole(path: Path, num_bytes: int) -> bool:
    """Whether a file holds an array of so many bytes."""
    return path.is_file() and path.stat().st_size == num_bytes + HEADER


def prepare_split(dataset: SegDataset, out: Path, *, workers: int) -> None:
    """Brings the copy of a split up to date; `index.json` is there only while the copy is whole.

    Raises:
        InputError: a file is damaged, or there is too little space; what was written stays and is used again.
    """
    folder = out / dataset.split
    keys = [content_key(dataset, number) for number in range(len(dataset))]
    missing = []
    for number, (key, (height, width)) in enumerate(zip(keys, dataset.sizes, strict=True)):
        image_array, labels = array_files(folder, key)
        if not (is_whole(image_array, height * width * 3) and is_whole(labels, height * width)):
            missing.append(number)
    check_space(out, sum(4 * height * width + 2 * HEADER for height, width in (dataset.sizes[n] for n in missing)))
    if missing:
        (folder / "index.json").unlink(missing_ok=True)
    loader = each_once(Decode(dataset, missing, folder), workers=workers)
    written = 0
    with told_in_one_line(workers, training=False), progress() as bar:
        for num_bytes in bar.track(loader, total=len(missing), description=dataset.split):
            written += num_bytes
    index = {
        "format": FORMAT,
        "source": str(dataset.root.resolve()),
        "split": dataset.split,
        "classes": dataset.classes,
        "colors": dataset.colors,
        "ignore": IGNORE,
        "images": [
            {
                "image": image.relative_to(dataset.root).as_posix(),
                "labels": labels.relative_to(dataset.root).as_posix(),
                "height": height,
                "width": width,
                "key": key,
            }
            for image, labels, (height, width), key in zip(
                dataset.images, dataset.labels, dataset.sizes, keys, strict=True
            )
        ],
    }
    replace_file(folder / "index.json", lambda part: part.write_text(json.dumps(index, indent=1)))
    needed = {path.name for key in keys for path in array_files(folder, key)}
    old = [path for pattern in ("*.npy", ".*.npy.part") for path in folder.glob(pattern) if path.name not in needed]
    for path in old:
        path.unlink()
    console.print(
        f"{dataset.split}: {len(dataset)} images, {len(missing)} decoded now ({written / 1e9:.2f} GB), "
        f"{len(old)} old files removed"
    )


def check_space(folder: Path, num_bytes: int) -> None:
    """Raises InputError if the disk that a folder is or will be on has less space than that."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise InputError(f"{folder}: {num_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free; make room there")
