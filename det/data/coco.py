"""COCO-style detection data: a data set that keeps annotations as arrays, samples, and padded batches."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from backbone.data.images import read_image
from backbone.errors import InputError
from det.data.annotations import annotation_file, check_file_name, image_folder, read_annotations
from det.data.transforms import CROWD, Transform, Transformed, mixup, mosaic
from det.matching import Targets

BUCKETS = (8, 32, 64, 128, 256, 512, 1024)
"""Every batch is padded to one of these numbers of boxes, so that a compiled training step sees few shapes."""
SIZE_STEP = 32
"""Sizes of multi-scale training are multiples of this, in pixels."""
MIN_BOX_SIDE = 1.0
"""Narrower or lower boxes, in pixels, are left out."""
ABSENT = -1
"""In `category_ids`, marks a class that the annotation file does not have."""


class Sample(NamedTuple):
    """One image with its boxes."""

    image: Tensor  # [3, H, W] uint8 RGB
    boxes: Tensor  # [n, 4] float32, xyxy in pixels of `image`
    labels: Tensor  # [n] int64, contiguous object classes from 0, or CROWD
    image_id: int
    original_size_hw: tuple[int, int]  # (height, width) of the image on disk, in pixels


class Batch(NamedTuple):
    """N samples of the same size."""

    images: Tensor  # [N, 3, H, W] uint8 RGB
    targets: Targets  # padded to a common number of boxes
    image_ids: Tensor  # [N] int64
    original_sizes_hw: Tensor  # [N, 2] int64


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples of one size; boxes are padded to the next of `BUCKETS` (beyond, to a multiple of the last)."""
    most = max(len(sample.labels) for sample in samples)
    padded = next((size for size in BUCKETS if size >= most), -(-most // BUCKETS[-1]) * BUCKETS[-1])
    boxes = torch.zeros(len(samples), padded, 4)
    labels = torch.zeros(len(samples), padded, dtype=torch.int64)
    valid = torch.zeros(len(samples), padded, dtype=torch.bool)
    crowd = torch.zeros(len(samples), padded, dtype=torch.bool)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count] = sample.boxes
        labels[row, :count] = sample.labels.clamp(min=0)
        valid[row, :count] = sample.labels != CROWD
        crowd[row, :count] = sample.labels == CROWD
    return Batch(
        # Channels last, as images are in memory and as the network expects them: no transposition is needed.
        images=torch.stack([sample.image.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2),
        targets=Targets(boxes, labels, valid, crowd),
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        original_sizes_hw=torch.tensor([sample.original_size_hw for sample in samples]),
    )


def input_sizes(image_size: Sequence[int], scales: Sequence[float]) -> list[tuple[int, int]]:
    """The input sizes (height, width) of multi-scale training, in pixels.

    The longer side takes every multiple of 32 from `scales[0]` to `scales[1]` times its size; the shorter is scaled
    alike and rounded to a multiple of 32.

    Arguments:
        image_size: (height, width) in pixels.
        scales: the smallest and the largest factor.

    Raises:
        InputError: the smallest factor is larger than the largest.
    """
    if scales[0] > scales[1]:
        raise InputError(f"augment.input_scale is {list(scales)}; give the smaller factor first")
    longer = max(image_size)
    first, last = (round(longer * scale / SIZE_STEP) for scale in scales)
    sizes = []
    for steps in range(max(1, first), max(1, last) + 1):
        height, width = (max(SIZE_STEP, round(side / longer * steps) * SIZE_STEP) for side in image_size)
        sizes.append((height, width))
    return sizes


def scale_batch(images: Tensor, targets: Targets, size_hw: tuple[int, int]) -> tuple[Tensor, Targets]:
    """Resizes float images [N, 3, H, W] to (height, width), and their boxes with them."""
    if images.shape[2:] == size_hw:
        return images, targets
    scale = [new / old for new, old in zip(size_hw[::-1], (images.shape[3], images.shape[2]), strict=True)]
    scaled = targets.boxes * torch.tensor(scale * 2, device=images.device)
    images = F.interpolate(images, size_hw, mode="bilinear", antialias=True)
    return images, targets._replace(boxes=scaled)


class CocoDetection(Dataset):
    """Images and boxes of one split; images without boxes are negative samples.

    Crowds are not trained on as objects: their boxes have the label CROWD, and mark what is not background either.

    An item, by index (epoch 0) or by (epoch, index), is a `Sample`. `annotation_file` is the json. `classes` are names
    by label, `category_ids` the file's ids by label, `image_ids` those by index. `dropped` counts the annotations that
    are not trained on as objects, by reason: crowd, non-finite, outside the image, degenerate (a side under 1 pixel
    after clipping to the image).

    Arguments:
        root: folder of the data set.
        split: names `annotations/instances_<split>.json` and the folder `<split>/` of images; COCO's test splits
            have `image_info_<split>.json`, without boxes.
        annotations, images: another annotation file, another folder of images.
        transform: from `det.train_transform` or `det.eval_transform`; None leaves images as they are on disk.
        categories: class names in the order of the labels, as used in training; the file may lack some of them (their
            `category_ids` entry is -1) but have no others. By default the file's own, in the order of their ids.
        seed: with epoch and index the only source of a sample's randomness.
        mosaic: fraction of samples composed of four transformed images; the other three are drawn from the split.
            `transform` must give all images the same size.
        mixup: fraction of samples blended with a second image; applied after mosaic.
        filter_empty: leave out images without a usable box; a crowd's box counts.
        leave_out: images that are no part of the set, as paths below the folder of images.

    Raises:
        InputError: at construction, anything missing, malformed or inconsistent, naming file and field; on access, an
            image that cannot be read or is not of the size that the annotations give.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        *,
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        transform: Transform | None = None,
        categories: Sequence[str] | None = None,
        seed: int = 0,
        mosaic: float = 0.0,
        mixup: float = 0.0,
        filter_empty: bool = False,
        leave_out: Collection[Path] = (),
    ) -> None:
        self.annotation_file = Path(annotations or annotation_file(root, split))
        self.folder = Path(images or image_folder(root, split))
        self.transform = transform
        self.seed = seed
        self.mosaic, self.mixup = mosaic, mixup
        name = str(self.annotation_file)
        content = read_annotations(self.annotation_file)
        if leave_out:
            images_kept = [row for row in content["images"] if self.folder / row["file_name"] not in leave_out]
            ids = {row["id"] for row in images_kept}
            boxes_kept = [row for row in content["annotations"] if row["image_id"] in ids]
            content = content | {"images": images_kept, "annotations": boxes_kept}

        self.classes, self.category_ids = _classes(content["categories"], categories, name)
        self.image_ids = [row["id"] for row in content["images"]]
        self.files = np.array([row["file_name"] for row in content["images"]])
        self.sizes_hw = np.array([(row["height"], row["width"]) for row in content["images"]], np.int64)
        _check_files([row["file_name"] for row in content["images"]], self.folder, name)

        rows = content["annotations"]
        index_of = {image_id: index for index, image_id in enumerate(self.image_ids)}
        label_of = {category_id: label for label, category_id in enumerate(self.category_ids)}
        self._keep(
            owners=np.array([index_of[row["image_id"]] for row in rows], np.int64),
            labels=np.array([label_of[row["category_id"]] for row in rows], np.int64),
            boxes_xywh=np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
            crowd=np.array([row.get("iscrowd", 0) for row in rows], bool),
        )
        if filter_empty:
            (filled,) = np.diff(self.first).nonzero()
            if not len(filled):
                raise InputError(f"{name}: no image has a usable box; there is nothing to train on")
            self.image_ids = [self.image_ids[index] for index in filled]
            self.files, self.sizes_hw = self.files[filled], self.sizes_hw[filled]
            self.first = np.append(self.first[filled], self.first[-1])

    def _keep(self, owners: np.ndarray, labels: np.ndarray, boxes_xywh: np.ndarray, crowd: np.ndarray) -> None:
        """Cleans the boxes and stores them sorted by image: those of image i are `first[i]` to `first[i + 1]`.

        Arguments:
            owners: index of each box's image, [n].
            labels: [n].
            boxes_xywh: [n, 4], in pixels.
            crowd: [n].
        """
        boxes = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
        limits = np.tile(self.sizes_hw[owners][:, ::-1], 2)
        finite = np.isfinite(boxes).all(axis=1)
        clipped = np.where(np.expand_dims(finite, 1), boxes, 0).clip(0, limits)
        outside = (boxes[:, :2] >= limits[:, :2]).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
        outside &= (boxes_xywh[:, 2:] > 0).all(axis=1)
        thin = (clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf) < MIN_BOX_SIDE
        self.dropped = {}
        usable = finite & ~outside & ~thin
        left = np.ones(len(boxes), bool)
        for reason, bad in (("crowd", crowd), ("non-finite", ~finite), ("outside", outside), ("degenerate", thin)):
            self.dropped[reason] = int((left & bad).sum())
            left &= ~bad
        order = np.argsort(owners[usable], kind="stable")
        self.boxes = clipped[usable][order].astype(np.float32)
        self.labels = np.where(crowd, CROWD, labels)[usable][order]
        self.first = np.searchsorted(owners[usable][order], np.arange(len(self.image_ids) + 1))

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = (0, key) if isinstance(key, int) else key
        image, boxes, labels = self._mixed(epoch, index)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        height, width = (int(side) for side in self.sizes_hw[index])
        # Copies, since a caller may change them.
        return Sample(
            pixels, torch.tensor(boxes), torch.tensor(labels), self.image_ids[index], original_size_hw=(height, width)
        )

    def _mixed(self, epoch: int, index: int) -> Transformed:
        """A transformed sample, after mosaic and mixup."""
        sample = self._transformed(index, (epoch, index))
        if not (self.mosaic or self.mixup):
            return sample
        rng = np.random.default_rng((self.seed, epoch, index))
        # The slot is part of the seed, so that an image is augmented otherwise here than as a sample of its own.
        for mix, share, slots in ((mosaic, self.mosaic, (1, 2, 3)), (mixup, self.mixup, (4,))):
            if rng.random() < share:
                others = zip(rng.integers(len(self), size=len(slots)), slots, strict=True)
                sample = mix([sample, *(self._transformed(int(n), (epoch, index, slot)) for n, slot in others)], rng)
        return sample

    def _transformed(self, index: int, draw: tuple[int, ...]) -> Transformed:
        """The image of an index with its boxes, augmented with the seed (`seed`, *draw)."""
        path = self.folder / str(self.files[index])
        image = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)
        height, width = (int(side) for side in self.sizes_hw[index])
        if image.shape[:2] != (height, width):
            found_height, found_width = image.shape[:2]
            turned = " (turned by its EXIF tag?)" if (found_height, found_width) == (width, height) else ""
            raise InputError(
                f"{path}: the image is {found_width}x{found_height}{turned} but {self.annotation_file} says "
                f"{width}x{height}; correct the annotations or the image"
            )
        mine = slice(self.first[index], self.first[index + 1])
        boxes, labels = self.boxes[mine], self.labels[mine]
        if self.transform is None:
            return Transformed(image, boxes, labels)
        return self.transform(
            image, boxes, labels, int(np.random.SeedSequence([self.seed, *draw]).generate_state(1)[0])
        )


def _classes(rows: list[dict], imposed: Sequence[str] | None, name: str) -> tuple[list[str], list[int]]:
    """Class names and category ids by label: in the order of the ids, or as imposed."""
    names = {row["id"]: row["name"] for row in rows}
    if imposed is None:
        return [names[category_id] for category_id in sorted(names)], sorted(names)
    id_of = {class_name: category_id for category_id, class_name in names.items()}
    if len(id_of) < len(names):
        raise InputError(f"{name}: two categories have the same name, so they cannot be matched to the model's classes")
    foreign = [class_name for class_name in id_of if class_name not in imposed]
    if foreign:
        raise InputError(
            f"{name}: categories {', '.join(foreign[:3])} are not among the model's {len(imposed)} classes "
            f"({', '.join(imposed[:3])}, ...); use the annotations the model was trained for"
        )
    return list(imposed), [id_of.get(class_name, ABSENT) for class_name in imposed]


def _check_files(files: list[str], folder: Path, name: str) -> None:
    """Raises InputError unless every image exists below the folder; links are followed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images; check data.root and the split")
    real_folder = folder.resolve()
    missing = [
        file
        for number, file in enumerate(files)
        if not check_file_name(file, real_folder, f"{name}: images[{number}]").is_file()
    ]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(files)} images that {name} lists are missing: {', '.join(missing[:3])}"
        )
