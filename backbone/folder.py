"""Pictures in one folder per class, as ImageNet is laid out: `ROOT/SPLIT/CLASS/*.jpg`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbone.errors import InputError
from backbone.images import read_image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

Transform = Callable[[np.ndarray, tuple[int, ...]], Tensor]


class Sample(NamedTuple):
    """One picture with its class; a batch of them has a leading dimension N."""

    image: Tensor  # uint8 RGB [3, H, W]
    label: Tensor  # int64 [], index into the data set's names
    index: Tensor  # int64 [], in the data set's order of pictures


class ImageFolder(Dataset):
    """Pictures whose class is the name of their folder; pictures may lie in sub-folders of it.

    An index is a number, or a pair (epoch, number): `transform(image_bgr, seed)` gets a seed made of (seed, epoch,
    number) alone, so that augmentation repeats for any number of workers.

    Arguments:
        names: the classes in the order of the labels; by default the folders' names, sorted, as ImageNet's are. Where
            given, folders may be fewer, but none may have another name.

    Raises:
        InputError: the folder is missing, has no class folders or other ones than `names`, or a class has no picture.
    """

    def __init__(
        self, root: str | Path, split: str, transform: Transform, *, names: list[str] | None = None, seed: int = 0
    ) -> None:
        folder = Path(root) / split
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; pictures belong into {folder}/CLASS/")
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(found) < 2:
            raise InputError(
                f"{folder}: {len(found)} class folders; pictures belong into {folder}/CLASS/, two at least"
            )
        self.names = found if names is None else names
        others = [name for name in found if name not in self.names]
        if others:
            raise InputError(
                f"{folder}: class {others[0]!r} is none of the {len(self.names)} known classes "
                f"({', '.join(self.names[:3])}, …); rename or remove the folder"
            )
        self.pictures: list[Path] = []
        labels = []
        for name in found:
            pictures = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in ENDINGS)
            if not pictures:
                raise InputError(f"{folder / name}: holds no picture ({', '.join(ENDINGS)}); fill or remove the folder")
            self.pictures += pictures
            labels += [self.names.index(name)] * len(pictures)
        self.labels = np.array(labels)
        self.transform, self.seed = transform, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        epoch, number = index if isinstance(index, tuple) else (0, index)
        image = self.transform(read_image(self.pictures[number]), (self.seed, epoch, number))
        return Sample(image, torch.tensor(self.labels[number]), torch.tensor(number))


def collate(samples: list[Sample]) -> Sample:
    """Stacks samples of one size: image [N, 3, H, W], label [N], index [N]."""
    return Sample(*(torch.stack(parts) for parts in zip(*samples, strict=True)))
