"""The base of all data sets for segmentation, whatever their folders look like."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from backbone.data.images import image_size, read_image
from backbone.errors import InputError

IGNORE = 255
"""The label of ignored pixels."""
RETRIES = 10
"""How often a crop without labelled pixels is drawn again before it is kept."""


class SegSample(NamedTuple):
    """One image with its labels; a batch of them has a leading dimension N."""

    image: Tensor  # uint8 RGB [3, H, W]
    labels: Tensor  # uint8 [H, W], indices into the data set's classes; 255 is ignored
    index: int | Tensor  # in the data set's order of images; in a batch [N]


class Transform(Protocol):
    """An augmentation of an image and its labels, such as `seg.data.transforms.TrainTransform`."""

    def rows(self, size_hw: tuple[int, int], seed: tuple[int, ...]) -> int:
        """How many rows of an image of this (height, width), counted from the top, the call with this seed reads."""
        ...

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, seed: tuple[int, ...], size_hw: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 BGR [H, W, 3] and labels uint8 [H, W] -> the augmented ones, of the training crop's size.

        Arguments:
            seed: the only source of randomness.
            size_hw: (height, width) of the whole image, where rows at the bottom were not decoded.
        """
        ...


class Decoded(Protocol):
    """A source of decoded images and labels, such as `seg.data.prepared.Prepared`."""

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The image and labels of an index, as `SegDataset.read`."""
        ...


class SegDataset(Dataset):
    """What `Cityscapes` and `Folder` have in common; construction checks that every image has a label of its size.

    An index is a number, or a pair (epoch, number). The seed of `transform` is (seed, epoch, number) alone, so that
    augmentation is the same for any number of workers. A crop without labelled pixels is drawn again.

    Arguments:
        find_label: returns the label file of an image, or raises InputError.
        faults: a list; if given, images without a fitting label are left out and the reasons are appended to it.
        leave_out: images that are no part of the set, as paths below its folder.

    Raises:
        InputError: an image has no label, or another size than its label.
    """

    root: Path
    split: str
    classes: list[str]  # names, in the order of the labels
    colors: list[tuple[int, int, int]]  # of the classes, RGB
    ids: np.ndarray  # uint8 [256]: the value that files hold for each label
    labels_of_ids: np.ndarray  # uint8 [256]: the label of each value in a file; others than classes and 255 are invalid
    instances: list[Path] | None = None  # files of instance ids, one for each image, where the set has them
    prepared: Decoded | None = None  # where images and labels are read from instead of from their files

    def __init__(
        self,
        images: list[Path],
        find_label: Callable[[Path], Path],
        transform: Transform | None,
        seed: int,
        faults: list[str] | None,
        leave_out: Collection[Path],
    ) -> None:
        self.transform, self.seed = transform, seed
        self.images, self.labels, self.sizes = [], [], []  # sizes are (height, width)
        self.unfit: list[Path] = []  # images that were left out for `faults`
        for image in (image for image in images if image not in leave_out):
            try:
                label = find_label(image)
                size_hw = self._size(image, label)
            except InputError as error:
                if faults is None:
                    raise
                faults.append(str(error))
                self.unfit.append(image)
            else:
                self.images.append(image)
                self.labels.append(label)
                self.sizes.append(size_hw)

    def _size(self, image: Path, label: Path) -> tuple[int, int]:
        (h, w), (label_h, label_w) = image_size(image), self.label_size(label)
        if (h, w) != (label_h, label_w):
            turned = " (EXIF turns the image by a quarter; save it turned)" if (w, h) == (label_h, label_w) else ""
            raise InputError(
                f"{label}: is {label_w}x{label_h}, its image {w}x{h}; both must have the same size{turned}"
            )
        return h, w

    def label_size(self, path: Path) -> tuple[int, int]:
        """(height, width) of a label file, without decoding it."""
        return image_size(path)

    def read_labels(self, path: Path, rows: int | None = None) -> np.ndarray:
        """The labels in a file, uint8 [H, W].

        Arguments:
            rows: if only so many rows from the top are needed; the result may end there.
        """
        raise NotImplementedError

    def label_values(self) -> list[object]:
        """Everything besides the files that labels depend on, serialisable as JSON; part of a prepared copy's key."""
        return [self.labels_of_ids.tolist()]

    def prediction_name(self, number: int) -> Path:
        """Where the prediction for an image is written, relative to the folder of predictions."""
        raise NotImplementedError

    def find_predictions(self, folder: Path) -> list[Path]:
        """The prediction files of all images, in the images' order.

        Raises:
            InputError: an image has none, or more than one.
        """
        raise NotImplementedError

    def labels_without_image(self) -> list[Path]:
        """Label files that belong to no image of the split."""
        raise NotImplementedError

    def has_labelled_pixels(self) -> bool:
        """Whether any pixel counts; none does in the labels of a test set that are kept secret."""
        return any((self.labels_of_image(number) != IGNORE).any() for number in range(len(self)))

    def label_counts(self) -> list[int]:
        """How many pixels of the whole set each class has; reads all labels and no image."""
        counts = np.zeros(256, np.int64)
        for number in range(len(self)):
            counts += np.bincount(self.labels_of_image(number).ravel(), minlength=256)
        return counts[: len(self.classes)].tolist()

    def labels_of_image(self, number: int) -> np.ndarray:
        """The labels of an image, uint8 [H, W], without the image; may be read-only."""
        if self.prepared is not None:
            return self.prepared.read(number)[1]  # memory maps: the image's pixels stay on disk
        return self.read_labels(self.labels[number])

    def read(self, number: int, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 BGR [H, W, 3], and its labels, uint8 [H, W]; both may be read-only.

        Arguments:
            rows: if only so many rows from the top are needed; the result may end there.
        """
        if self.prepared is not None:
            return self.prepared.read(number)
        return read_image(self.images[number], rows), self.read_labels(self.labels[number], rows)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int | tuple[int, int]) -> SegSample:
        epoch, number = index if isinstance(index, tuple) else (0, index)
        if self.transform is None:
            image, labels = self.read(number)
        else:
            seed = (self.seed, epoch, number)
            image, labels = self._transformed(self.transform, number, seed)
            for retry in range(1, RETRIES + 1):
                if (labels != IGNORE).any():
                    break
                image, labels = self._transformed(self.transform, number, (*seed, retry))
        rgb = np.stack(cv2.split(image)[::-1])
        return SegSample(torch.from_numpy(rgb), torch.from_numpy(np.array(labels)), number)

    def _transformed(self, transform: Transform, number: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The image and labels of an index after augmentation; only the rows that it needs are decoded."""
        size_hw = self.sizes[number]
        image, labels = self.read(number, transform.rows(size_hw, seed))
        return transform(image, labels, seed, size_hw)


def collate(samples: list[SegSample]) -> SegSample:
    """Stacks samples of one size: image [N, 3, H, W], labels [N, H, W], index [N]."""
    images, labels, indices = zip(*samples, strict=True)
    return SegSample(torch.stack(images), torch.stack(labels), torch.tensor(indices))
