"""A training sample from 1024x2048 images: processor time on one core, beside the ways it is usually loaded."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from seg.data.cityscapes import LABEL_ID_OF_TRAIN_ID, TRAIN_ID_OF_LABEL_ID, Cityscapes
from seg.data.dataset import IGNORE, SegDataset
from seg.data.opening import open_data
from seg.data.transforms import TrainTransform
from tools.benchmarks.timing import alternate, medians
from tools.converters.masks import prepare_split
from tools.io.console import console, table
from tools.make_demo_data import make_demo_data

SIZE_HW = (1024, 2048)
CROP_HW = (512, 1024)
NOISE = 0.8  # standard deviation in grey levels, which makes enlarged street images PNGs of about 2.3 MB
CHANGE = 0.3  # of brightness, contrast and saturation
HUE = 0.05
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PEER = "OpenCV + albumentations"


def benchmark(*, data: Path | None, images: int, rounds: int) -> None:
    """Prints the comparison.

    Arguments:
        data: folder like Cityscapes', whose images are enlarged; None: the painted world.
        images: samples in a round.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "street"
        if data is None:
            make_demo_data(Path(folder) / "demo", num_train=4, num_val=1, num_clip_frames=1, size_hw=(512, 1024))
            source = Cityscapes(Path(folder) / "demo" / "cityscapes", "train")
        else:
            source = Cityscapes(data, "val")
        enlarge(source, root, images)
        prepare_split(open_data(root, "train"), Path(folder) / "copy", workers=0)
        transform = TrainTransform(CROP_HW, brightness=CHANGE, contrast=CHANGE, saturation=CHANGE, hue=HUE)
        ours = open_data(root, "train", transform)
        datasets = {
            PEER: PlainAlbumentations(ours),
            "Pillow + torchvision v2": PlainTorchvision(ours),
            "taproot, from the files": ours,
            "taproot, prepared copy": open_data(root, "train", transform, prepared=Path(folder) / "copy"),
        }
        contenders = {name: load_all(dataset) for name, dataset in datasets.items()}
        seconds = medians(alternate(contenders, rounds, clock=time.process_time))
        megabytes = statistics.mean(path.stat().st_size for path in ours.images) / 1e6
    milliseconds = {name: 1000 * value / len(ours) for name, value in seconds.items()}
    rows = [
        [name, f"{ms:.1f}", f"{1000 / ms:.1f}", f"{milliseconds[PEER] / ms:.2f}x"] for name, ms in milliseconds.items()
    ]
    title = f"a sample of {CROP_HW[0]}x{CROP_HW[1]} from {SIZE_HW[0]}x{SIZE_HW[1]}, PNGs of {megabytes:.1f} MB"
    console.print(table(title, ["", "ms of processor", "samples/s per core", ""], rows))


def load_all(dataset: "SegDataset | PlainAlbumentations | PlainTorchvision") -> Callable[[], None]:
    """A function that loads every sample of a set, ours with the augmentation of one more epoch at each call."""
    epochs = iter(range(10**9))

    def load() -> None:
        epoch = next(epochs)
        for number in range(len(dataset)):
            if isinstance(dataset, SegDataset):
                dataset[(epoch, number)]
            else:
                dataset[number]

    return load


def enlarge(dataset: SegDataset, folder: Path, count: int) -> None:
    """Writes images and labels of a set in Cityscapes' size and folders, with noise that makes them as large."""
    random = np.random.default_rng(0)
    sides = {"leftImg8bit": "leftImg8bit", "gtFine": "gtFine_labelIds"}
    for number in range(count):
        image, labels = dataset.read(number % len(dataset))
        height = min(image.shape[0], image.shape[1] // 2)  # the middle, twice as wide as high
        top = (image.shape[0] - height) // 2
        image, labels = image[top : top + height, : 2 * height], labels[top : top + height, : 2 * height]
        image = cv2.resize(image, SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC)
        image = (image + random.normal(0, NOISE, (*SIZE_HW, 1))).round().clip(0, 255).astype(np.uint8)
        labels = np.asarray(cv2.resize(labels, SIZE_HW[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        for (kind, ending), values in zip(sides.items(), (image, LABEL_ID_OF_TRAIN_ID[labels]), strict=True):
            path = folder / kind / "train" / "street" / f"street_000000_{number:06d}_{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), values, [cv2.IMWRITE_PNG_COMPRESSION, 6])


class PlainAlbumentations(Dataset):
    """Images decoded by OpenCV and augmented by albumentations in the order of its examples."""

    def __init__(self, dataset: SegDataset) -> None:
        self.dataset = dataset
        self.transform = A.Compose(
            [
                A.RandomScale((-0.5, 1.0), p=1.0),
                A.PadIfNeeded(*CROP_HW, border_mode=cv2.BORDER_CONSTANT, fill=(124, 116, 104), fill_mask=IGNORE),
                A.RandomCrop(*CROP_HW),
                A.HorizontalFlip(),
                A.ColorJitter(
                    (1 - CHANGE, 1 + CHANGE), (1 - CHANGE, 1 + CHANGE), (1 - CHANGE, 1 + CHANGE), (-HUE, HUE)
                ),
                A.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.imread(str(self.dataset.images[number]))
        label_ids = cv2.imread(str(self.dataset.labels[number]), cv2.IMREAD_UNCHANGED)
        assert image is not None and label_ids is not None  # we have just written them
        labels = TRAIN_ID_OF_LABEL_ID[np.asarray(label_ids, np.uint8)]
        changed = self.transform(image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB), mask=labels)
        return torch.from_numpy(changed["image"].transpose(2, 0, 1)).contiguous(), torch.from_numpy(changed["mask"])


class PlainTorchvision(Dataset):
    """Images decoded by Pillow and augmented by torchvision's v2 transforms."""

    def __init__(self, dataset: SegDataset) -> None:
        self.dataset = dataset
        jitter = v2.ColorJitter(CHANGE, CHANGE, CHANGE, HUE)
        self.transform = v2.Compose(
            [
                v2.ScaleJitter(SIZE_HW, (0.5, 2.0)),
                v2.RandomCrop(CROP_HW, pad_if_needed=True, fill={tv_tensors.Image: 116, tv_tensors.Mask: IGNORE}),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([jitter]),  # for half of the images, as albumentations does
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = tv_tensors.Image(Image.open(self.dataset.images[number]))
        labels = TRAIN_ID_OF_LABEL_ID[np.asarray(Image.open(self.dataset.labels[number]))]
        return self.transform(image, tv_tensors.Mask(labels))
