"""Images in one folder per class, as ImageNet is laid out: `ROOT/SPLIT/CLASS/*.jpg`."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbone.data.images import IMAGE_SUFFIXES, image_files, read_image
from backbone.errors import InputError

Transform = Callable[[np.ndarray, tuple[int, ...]], Tensor]


class Sample(NamedTuple):
    """One image with its class; a batch of them has a leading dimension N."""

    image: Tensor  # uint8 RGB [3, H, W]
    label: Tensor  # int64 [], index into the data set's classes
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - int64 [], in the data set's order of images


class ImageFolder(Dataset):
    """Images whose class is the name of their folder; images may lie in sub-folders of it.

    An index is a number, or a pair (epoch, number). The transform's seed is (seed, epoch, number), so that augmentation
    does not depend on the number of workers.

    Arguments:
        transform: a function of an image uint8 BGR [H, W, 3] and a seed that gives uint8 RGB [3, H, W].
        classes: names in the order of the labels; by default the folders' names, sorted, as ImageNet's are. Where they
            are given, some folders may be missing, but none may have another name.
        leave_out: images that are no part of the set, as paths below `root`.

    Raises:
        InputError: the folder is missing, has no class folders or other ones than `classes`, or a class has no image.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Transform,
        *,
        classes: list[str] | None = None,
        seed: int = 0,
        leave_out: Collection[Path] = (),
    ) -> None:
        folder = Path(root) / split
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; put images into {folder}/CLASS/")
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(found) < 2:
            raise InputError(
                f"{folder}: {len(found)} class folders, and at least two are needed; put images into {folder}/CLASS/"
            )
        self.classes = found if classes is None else classes
        others = [name for name in found if name not in self.classes]
        if others:
            raise InputError(
                f"{folder}: class {others[0]!r} is none of the {len(self.classes)} known classes "
                f"({', '.join(self.classes[:3])}, …); rename or remove the folder"
            )
        self.images: list[Path] = []
        labels = []
        for name in found:
            images = image_files(folder / name)
            images = [path for path in images if path not in leave_out]
            if not images:
                raise InputError(
                    f"{folder / name}: holds no image ({', '.join(IMAGE_SUFFIXES)}); fill or remove the folder"
                )
            self.images += images
            labels += [self.classes.index(name)] * len(images)
        self.labels = np.array(labels)
        self.transform, self.seed = transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        epoch, number = index if isinstance(index, tuple) else (0, index)
        image = self.transform(read_image(self.images[number]), (self.seed, epoch, number))
        return Sample(image, torch.tensor(self.labels[number]), torch.tensor(number))


def collate(samples: list[Sample]) -> Sample:
    """Stacks samples of one size: image [N, 3, H, W], label [N], index [N]."""
    return Sample(*(torch.stack(parts) for parts in zip(*samples, strict=True)))
