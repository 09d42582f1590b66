"""A prepared copy of a data set: images and labels decoded once, from then on read as memory maps.

`FOLDER/SPLIT/index.json` lists the images, each of which has two files: `KEY.image.npy` (uint8 BGR [H, W, 3], as
`read_image` returns it) and `KEY.labels.npy` (uint8 [H, W], labels of the data set, 255 for ignored pixels). The key is
a hash of the files' names, sizes and times, so that a stale copy is never used. `tools.prepare_masks` writes copies.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from backbone.errors import InputError
from seg.data.dataset import SegDataset

FORMAT = 1
"""Part of every key; changing it makes all existing copies stale."""


def content_key(dataset: SegDataset, number: int) -> str:
    """A hash that identifies an image and its labels: the files' names, sizes and times, and `label_values`."""
    files = []
    for path in (dataset.images[number], dataset.labels[number]):
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        files += [path.relative_to(dataset.root).as_posix(), stat.st_size, stat.st_mtime_ns]
    content = json.dumps([FORMAT, *files, dataset.label_values()])
    return hashlib.sha256(content.encode()).hexdigest()[:24]


class Prepared:
    """The prepared copy of a split, for `SegDataset.prepared`.

    Arguments:
        folder: that `tools.prepare_masks` wrote.
        dataset: the images and labels that it must hold, as they are now.

    Raises:
        InputError: there is no copy, it is unfinished, or images have been added or changed since.
    """

    def __init__(self, folder: str | Path, dataset: SegDataset) -> None:
        self.folder = Path(folder) / dataset.split
        self.cure = f"run python -m tools.prepare_masks {dataset.root} {folder}"
        index = self.folder / "index.json"
        try:
            known = {entry["key"] for entry in json.loads(index.read_text())["images"]}
        except FileNotFoundError as error:
            raise InputError(f"{index}: missing, so the copy is not there or unfinished; {self.cure}") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{index}: damaged ({error}); {self.cure}") from error
        self.keys = [content_key(dataset, number) for number in range(len(dataset))]
        stale = [number for number, key in enumerate(self.keys) if key not in known]
        if stale:
            raise InputError(
                f"{self.folder}: {len(stale)} of {len(dataset)} images have changed since they were prepared, the "
                f"first {dataset.images[stale[0]]}; {self.cure}"
            )

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The image, uint8 BGR [H, W, 3], and its labels, uint8 [H, W]: read-only memory maps, shared by processes."""
        return self._map(f"{self.keys[number]}.image.npy"), self._map(f"{self.keys[number]}.labels.npy")

    def _map(self, name: str) -> np.ndarray:
        try:
            return np.load(self.folder / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.folder / name}: missing or damaged ({error}); delete it and {self.cure}"
            ) from error
