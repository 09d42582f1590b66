"""The segmentation parts of `tools.benchmark`: loading samples, counting a confusion matrix, labels from logits."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import seg
from backbone.inference import normalise
from seg.data.cityscapes import LABEL_ID_OF_TRAIN_ID, TRAIN_ID_OF_LABEL_ID, Cityscapes
from seg.data.dataset import IGNORE, SegDataset
from seg.data.opening import open_data
from seg.data.transforms import TrainTransform
from seg.metrics import confusion_matrix
from tools.converters.masks import prepare_split
from tools.io.console import console, progress, table
from tools.make_demo_data import make_demo_data
from tools.predict import load_model

SIZE_HW = (1024, 2048)
CROP_HW = (512, 1024)
NOISE = 0.8  # standard deviation in grey levels, which makes enlarged street images PNGs of about 2.3 MB
CHANGE = 0.3  # of brightness, contrast and saturation
HUE = 0.05
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def time_rounds(
    contenders: dict[str, Callable[[], Any]], rounds: int, *, clock: Callable[[], float], count: int = 1
) -> dict[str, float]:
    """Milliseconds of each function by `clock`: medians over alternating rounds, divided by `count`."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    with progress() as bar:
        task = bar.add_task("timing", total=rounds * len(contenders))
        for _ in range(rounds):
            for name, contender in contenders.items():
                start = clock()
                contender()
                spent[name].append((clock() - start) / count * 1000)
                bar.advance(task)
    return {name: statistics.median(values) for name, values in spent.items()}


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
        labels = cv2.resize(labels, SIZE_HW[::-1], interpolation=cv2.INTER_NEAREST)
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
        image = cv2.cvtColor(cv2.imread(str(self.dataset.images[number])), cv2.COLOR_BGR2RGB)
        labels = TRAIN_ID_OF_LABEL_ID[cv2.imread(str(self.dataset.labels[number]), cv2.IMREAD_UNCHANGED)]
        changed = self.transform(image=image, mask=labels)
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


def seg_loader(arguments: argparse.Namespace) -> None:
    """The comparison of loaders: processor time per sample on one core."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "street"
        if arguments.data is None:
            make_demo_data(Path(folder) / "demo", num_train=4, num_val=1, num_clip_frames=1, size_hw=(512, 1024))
            source = Cityscapes(Path(folder) / "demo" / "cityscapes", "train")
        else:
            source = Cityscapes(arguments.data, "val")
        enlarge(source, root, arguments.images)
        prepare_split(open_data(root, "train"), Path(folder) / "copy", workers=0)
        transform = TrainTransform(CROP_HW, brightness=CHANGE, contrast=CHANGE, saturation=CHANGE, hue=HUE)
        ours = open_data(root, "train", transform)
        loaders = {
            "OpenCV + albumentations": PlainAlbumentations(ours),
            "Pillow + torchvision v2": PlainTorchvision(ours),
            "taproot, from the files": ours,
            "taproot, prepared copy": open_data(root, "train", transform, prepared=Path(folder) / "copy"),
        }

        def load_all(dataset: Dataset) -> Callable[[], None]:
            epochs = iter(range(10**9))

            def load() -> None:
                epoch = next(epochs)
                for number in range(len(dataset)):
                    dataset[(epoch, number) if isinstance(dataset, SegDataset) else number]

            return load

        contenders = {name: load_all(dataset) for name, dataset in loaders.items()}
        spent = time_rounds(contenders, arguments.rounds, clock=time.process_time, count=len(ours))
        size = statistics.mean(path.stat().st_size for path in ours.images) / 1e6
    peer = spent["OpenCV + albumentations"]
    rows = [[name, f"{ms:.1f}", f"{1000 / ms:.1f}", f"{peer / ms:.2f}x"] for name, ms in spent.items()]
    title = f"a sample of {CROP_HW[0]}x{CROP_HW[1]} from {SIZE_HW[0]}x{SIZE_HW[1]}, PNGs of {size:.1f} MB"
    console.print(table(title, ["", "ms of processor", "samples/s per core", ""], rows))


def confusion(arguments: argparse.Namespace) -> None:
    """The comparison of ways to count a confusion matrix, on one thread."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    random, count = np.random.default_rng(0), len(seg.cityscapes.NAMES)
    coarse = random.choice([*range(count), IGNORE], (16, 32)).astype(np.uint8)
    labels = cv2.resize(coarse, SIZE_HW[::-1], interpolation=cv2.INTER_NEAREST)
    guesses = random.integers(0, count, SIZE_HW, dtype=np.uint8)
    predictions = np.where((random.random(SIZE_HW) < 0.2) | (labels == IGNORE), guesses, labels).astype(np.uint8)
    found: dict[str, np.ndarray] = {}

    def by_bincount() -> None:
        truth, guess = labels.astype(np.int64), predictions.astype(np.int64)
        valid = (truth >= 0) & (truth < count)
        flat = np.bincount(count * truth[valid] + guess[valid], minlength=count**2)
        found["numpy bincount"] = flat.reshape(count, count)

    def by_smp() -> None:
        maps = [torch.from_numpy(array).long()[None] for array in (predictions, labels)]
        hits, *_ = smp.metrics.get_stats(*maps, mode="multiclass", ignore_index=IGNORE, num_classes=count)
        found["smp.metrics.get_stats"] = hits[0].numpy()

    def ours() -> None:
        found["taproot"] = confusion_matrix(labels, predictions, count)

    contenders = {"numpy bincount": by_bincount, "smp.metrics.get_stats": by_smp, "taproot": ours}
    spent = time_rounds(contenders, arguments.images, clock=time.process_time)
    rows = [[name, f"{ms:.1f}", f"{ms * 0.5:.1f}", f"{ms / spent['taproot']:.1f}x"] for name, ms in spent.items()]
    console.print(table("confusion matrix of 1024x2048, 19 classes", ["", "ms", "s for 500", "of ours"], rows))
    same = (found["taproot"][:, :count] == found["numpy bincount"]).all()
    same_hits = (found["taproot"].diagonal() == found["smp.metrics.get_stats"]).all()
    console.print(f"equal counts: {'yes' if same and same_hits else 'NO'}; {arguments.images} images, one thread")


@torch.inference_mode()
def label_maps(arguments: argparse.Namespace) -> None:
    """The comparison of ways from coarse logits to labels."""
    sizes = (SIZE_HW, (1023, 2047))
    cases = {f"random, {h}x{w}": (torch.randn(1, 19, -(-h // 8), -(-w // 8)), (h, w)) for h, w in sizes}
    if arguments.weights is not None:
        model, description = load_model(arguments.weights, task="segmentation")
        dataset = open_data(arguments.data, "val", classes=arguments.classes)
        for number, (h, w) in enumerate(sizes):
            image = cv2.resize(dataset.read(number * len(dataset) // 2)[0], (w, h), interpolation=cv2.INTER_CUBIC)
            rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None]
            images = normalise(rgb, description["mean"], description["std"], channels_last=True)
            cases[f"trained, {h}x{w}"] = (model.eval()(images).float(), (h, w))
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, (logits, size) in cases.items():
            contenders = {
                "peer": lambda logits=logits, size=size: seg.upsample(logits, size).argmax(1),
                "ours": lambda logits=logits, size=size: seg.label_map(logits, size),
            }
            differing = int((contenders["peer"]() != contenders["ours"]()).sum())
            spent = time_rounds(contenders, arguments.rounds, clock=time.perf_counter)
            figures = [f"{ms:.1f}" for ms in spent.values()]
            rows.append([name, str(threads), *figures, f"{spent['peer'] / spent['ours']:.1f}x", str(differing)])
    columns = ["logits at stride 8", "threads", "upsample, argmax: ms", "label_map: ms", "", "differing pixels"]
    console.print(table("labels from logits, 19 classes", columns, rows))


def add_commands(commands: Any) -> None:
    """The commands of this page, for `tools.benchmark`'s parser."""
    command = commands.add_parser("seg-loader", help="processor time of a training sample, by four ways of loading")
    command.add_argument("--data", type=Path, help="folder like Cityscapes', enlarged; default: the painted world")
    command.add_argument("--images", type=int, default=8, help="default: 8")
    command.add_argument("--rounds", type=int, default=5, help="through all images, alternating; default: 5")
    command.set_defaults(run=seg_loader)
    command = commands.add_parser("confusion", help="milliseconds of a confusion matrix")
    command.add_argument("--images", type=int, default=50, help="default: 50")
    command.set_defaults(run=confusion)
    command = commands.add_parser("label-map", help="milliseconds from logits to labels")
    command.add_argument("--weights", type=Path, help="best.safetensors; without it, random logits only")
    command.add_argument("--data", type=Path, default=Path("demo/cityscapes"), help="images for --weights")
    command.add_argument("--classes", type=Path, help="classes.yaml of one's own data")
    command.add_argument("--rounds", type=int, default=5, help="alternating; default: 5")
    command.set_defaults(run=label_maps)
