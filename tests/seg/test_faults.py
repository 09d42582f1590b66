"""What goes wrong with segmentation data: each fault is a line that names the file, the rule and the cure."""

import dataclasses
import io
import resource
import shutil
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from backbone import InputError
from backbone.data import images
from backbone.data.more import compose
from seg.data.cityscapes import Cityscapes
from seg.data.dataset import SegDataset
from seg.data.folder import Folder
from seg.data.opening import open_data
from seg.data.transforms import TrainTransform
from seg.palette import pascal_voc_color
from tests.builders.commands import check_masks_main
from tests.builders.gardens import make_garden
from tools.run import config as configs
from tools.run.processes import make_accelerator
from tools.scoring.segmentation import WHOLE_IMAGES, evaluate, evaluate_model, model_labels

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world / "cityscapes", tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


@pytest.fixture
def photo() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return cv2.resize(noise, (320, 240))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_zeros(width: int, height: int, *, rows: int) -> bytes:
    """A 1-bit PNG that claims a size and holds so many rows."""
    packer, row = zlib.compressobj(1), bytes(1 + -(-width // 8))
    content = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.95])
@pytest.mark.parametrize("progressive", [False, True])
def test_1_a_truncated_jpeg_is_refused_though_its_preview_has_an_end(tmp_path, photo, keep, progressive):
    preview = io.BytesIO()
    Image.fromarray(photo).resize((80, 60)).save(preview, "JPEG")
    thumbnail = b"Exif\x00\x00" + preview.getvalue()
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo).save(path, quality=60, progressive=progressive, exif=thumbnail)
    whole = path.read_bytes()
    assert whole.count(b"\xff\xd9") == 2 and images.read_image(path).shape == (240, 320, 3)
    path.write_bytes(whole + bytes(10_000))  # cameras append their own data
    assert images.read_image(path).shape == (240, 320, 3)
    start = whole.index(preview.getvalue()) + len(preview.getvalue())
    path.write_bytes(whole[: start + int((len(whole) - start) * keep)])
    with pytest.raises(InputError, match=r"photo\.jpg: the image is (cut short|damaged)"):
        images.read_image(path)


def test_1_training_and_the_check_both_name_a_truncated_image(copy, capsys):
    image = sorted(copy.glob("leftImg8bit/val/*/*.png"))[0]
    jpeg = cv2.imencode(".jpg", cv2.imread(str(image)))[1].tobytes()
    image.unlink()
    image = image.with_suffix(".jpg")
    image.write_bytes(jpeg[: len(jpeg) // 2])
    with pytest.raises(InputError, match=rf"{image}: the image is cut short"):
        Cityscapes(copy, "val")[0]
    code, faults, _ = check_masks_main(capsys, copy, "--splits", "val")
    assert code == 1 and len(faults) == 1 and str(image) in faults[0]


def test_2_flipped_bytes_are_found_by_their_sums(copy, tmp_path, capsys):
    image = sorted(copy.glob("leftImg8bit/val/*/*.png"))[2]
    jpeg = bytearray(cv2.imencode(".jpg", cv2.imread(str(image)))[1].tobytes())
    image.unlink()
    image = image.with_suffix(".jpg")
    image.write_bytes(jpeg)
    sums = tmp_path / "sums.sha256"
    assert "10 sums written" in check_masks_main(capsys, copy, "--splits", "val", "--hash", str(sums))[2]
    assert check_masks_main(capsys, copy, "--splits", "val", "--hash", str(sums))[0] == 0
    for position in range(len(jpeg) // 2, len(jpeg) // 2 + 40):
        jpeg[position] = (jpeg[position] ^ 1) if jpeg[position] not in (254, 255) else jpeg[position]
    image.write_bytes(jpeg)
    assert check_masks_main(capsys, copy, "--splits", "val")[0] == 0  # it decodes
    code, faults, _ = check_masks_main(capsys, copy, "--splits", "val", "--hash", str(sums))
    name = image.relative_to(copy)
    assert code == 1 and faults == [f"fault: {name}: is not the file that {sums} knows; copy it again"]
    _, faults, _ = check_masks_main(capsys, copy, "--splits", "train", "--hash", str(sums))
    assert len(faults) == 1 and "lacks 16 files" in faults[0]


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_3_a_damaged_png_is_refused_as_image_and_as_label(tmp_path, photo, damage):
    path = tmp_path / "damaged.png"
    Image.fromarray(photo[:, :, 0]).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    for read in (images.read_image, images.read_label):
        with pytest.raises(InputError, match=r"damaged\.png: the (image|mask) is (cut short|damaged)"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\n <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer; run git lfs pull"),
        (bytes(500), "begins with zeros"),
        (b"PK\x03\x04 and so on", "is a zip archive"),
        (b"hello, world", "begins with b'hello, world'"),
    ],
)
def test_4_a_file_that_is_no_image_says_what_it_is(tmp_path, content, message):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for read in (images.read_image, images.image_size, images.read_label):
        with pytest.raises(InputError, match=rf"photo\.jpg: not an image \({message}"):
            read(path)


@pytest.mark.parametrize(("side", "rows"), [(30_000, 30_000), (60_000, 1)], ids=["5_a_bomb", "6_a_lying_header"])
def test_5_6_images_that_claim_too_much_are_refused_before_they_are_decoded(tmp_path, side, rows):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_zeros(side, side, rows=rows))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    for read in (images.read_image, images.image_size, images.read_label, images.read_colors):
        with pytest.raises(InputError, match=rf"bomb\.png: {side}x{side} pixels is above the limit"):
            read(path)
    assert time.thread_time() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # kB


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_7_size_and_image_follow_exif_alike(tmp_path, photo, suffix, orientation):
    path, exif = tmp_path / f"turned.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(path, exif=exif)
    expected = (320, 240) if orientation >= 5 else (240, 320)
    assert images.read_image(path).shape[:2] == images.image_size(path) == expected


def test_7_a_mask_of_the_unturned_image_is_told_so(tmp_path):
    classes, exif = make_garden(tmp_path), Image.Exif()
    exif[0x0112] = 6
    image = tmp_path / "images" / "val" / "bed" / "0.jpg"
    Image.open(image).save(image, exif=exif)
    with pytest.raises(InputError, match=r"0.png: is 64x48, its image 48x64; .*EXIF turns the image"):
        Folder(tmp_path, "val", classes)


def test_8_modes_are_counted_and_16_bits_noted(copy, capsys):
    image = sorted(copy.glob("leftImg8bit/val/*/*.png"))[0]
    cv2.imwrite(str(image), cv2.imread(str(image), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 256)
    code, _, text = check_masks_main(capsys, copy, "--splits", "val")
    assert code == 0 and "modes: RGB 4, I;16 1" in text and "16-bit images" in text
    (copy / "leftImg8bit").rename(copy / "leftImg16bit")
    with pytest.raises(InputError, match="leftImg16bit/ is not read; get leftImg8bit"):
        Cityscapes(copy, "val")


@pytest.mark.parametrize("kind", ["gif", "tiff16", "gray alpha", "one bit"])
def test_8_rarer_kinds_give_three_channels_of_bytes_too(tmp_path, photo, kind):
    path = tmp_path / f"image.{'gif' if kind == 'gif' else 'tif' if kind == 'tiff16' else 'png'}"
    if kind == "gif":
        frames = [Image.fromarray(part).convert("P") for part in (photo, 255 - photo)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "tiff16":
        cv2.imwrite(str(path), photo.astype(np.uint16) * 256)
    else:
        Image.fromarray(photo).convert("LA" if kind == "gray alpha" else "1").save(path)
    image = images.read_image(path)
    assert (image.shape, image.dtype) == ((240, 320, 3), np.uint8) and images.image_size(path) == (240, 320)


def test_9_a_palette_mask_gives_its_indices_not_its_colors(tmp_path):
    ids = np.arange(34, dtype=np.uint8).reshape(2, 17)
    mask = Image.fromarray(ids)
    mask.putpalette([value for index in range(256) for value in pascal_voc_color(index)])
    mask.save(tmp_path / "mask.png")
    assert images.image_mode(tmp_path / "mask.png") == "P"
    assert (images.read_label(tmp_path / "mask.png") == ids).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([34], r"2 pixels are \[34\], which are not Cityscapes label ids 0..33; see gtFine's naming"),
        ([200, 34], r"4 pixels are \[34, 200\], which are not Cityscapes label ids"),
        ([255], r"2 pixels are \[255\], .*; only train ids have 255: name such files …_labelTrainIds.png"),
    ],
)
def test_10_label_ids_that_do_not_exist_are_named_and_counted(copy, values, message):
    label = sorted(copy.glob("gtFine/val/*/*_labelIds.png"))[0]
    ids = np.asarray(Image.open(label)).copy()
    for row, value in enumerate(values):
        ids[row, :2] = value
    Image.fromarray(ids).save(label)
    with pytest.raises(InputError, match=rf"{label}: {message}"):
        Cityscapes(copy, "val")[0]


def test_10_colors_and_negative_ids_in_place_of_label_ids(copy, tmp_path):
    label = sorted(copy.glob("gtFine/val/*/*_labelIds.png"))[0]
    Image.new("RGB", (192, 96), (128, 64, 128)).save(label)
    with pytest.raises(InputError, match=rf"{label}: a mask holds one id per pixel, this is RGB; use .*_labelIds.png"):
        Cityscapes(copy, "val")[0]
    Image.fromarray(np.full((4, 4), -1, np.int32)).save(tmp_path / "negative.tif")
    with pytest.raises(InputError, match=r"negative\.tif: ids must be from 0 to 255, found -1"):
        images.read_label(tmp_path / "negative.tif")


def test_11_missing_and_misfitting_labels_are_all_listed(copy, capsys):
    labels = sorted(copy.glob("gtFine/val/*/*_labelIds.png"))
    labels[0].unlink()
    Path(str(labels[0]).replace("labelIds.png", "polygons.json")).unlink()
    Image.open(labels[1]).resize((96, 48)).save(labels[1])
    code, faults, _ = check_masks_main(capsys, copy, "--splits", "val")
    assert code == 1 and len(faults) == 2
    assert "has no label; expected" in faults[0] and "is 96x48, its image 192x96" in faults[1]


def test_12_a_crop_without_labels_gives_no_gradient_and_no_nan():
    from seg.loss import LOSSES

    for name, loss in LOSSES.items():
        logits = torch.randn(2, 4, 8, 8, requires_grad=True)
        value = loss(logits, torch.full((2, 8, 8), 255, dtype=torch.uint8))
        value.backward()
        assert value.item() == 0 and not logits.grad.any(), name


SEG_CONFIGS = [path for path in sorted((ROOT / "configs").glob("*/*.yaml")) if "crop_hw" in path.read_text()]


@pytest.mark.parametrize("path", SEG_CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_13_no_configured_augmentation_invents_labels(path):
    if path.parent.name == "joint":
        settings = configs.load(configs.JointConfig, path, []).segmentation.augment
    else:
        settings = configs.load(configs.SegConfig, path, []).augment
    augment = dataclasses.asdict(settings)
    crop_hw, more = tuple(augment.pop("crop_hw")), compose(augment.pop("more"))
    transform = TrainTransform(crop_hw, more=more, **augment | {"scale": tuple(augment["scale"])})
    for shape in ((96, 192), (2 * crop_hw[0], 3 * crop_hw[1])):
        image, labels = np.full((*shape, 3), 90, np.uint8), np.full(shape, 7, np.uint8)
        for seed in range(6):
            changed, mask = transform(image, labels, (seed,))
            assert changed.shape == (*crop_hw, 3) and mask.shape == crop_hw
            assert set(np.unique(mask)) <= {7, 255} and (mask == 7).any()


def test_22_half_a_data_set_and_images_that_are_there_twice(copy, tmp_path, capsys):
    for folder in ("leftImg8bit", "gtFine"):
        (copy / folder / "val" / "moosfeld").rename(copy / folder / "val" / "munster")
    code, faults, text = check_masks_main(capsys, copy, "--splits", "val")
    assert code == 1 and "the real data set has 500" in text
    assert faults[-1] == "fault: val/munster: 5 images, the real data set has 174; copy the city again"
    assert len(faults) == 3  # two cities are missing
    image = sorted((copy / "leftImg8bit" / "train").glob("*/*.png"))[0]
    label = next((copy / "gtFine" / "train").glob(f"*/{image.name.replace('leftImg8bit', 'gtFine_labelIds')}"))
    shutil.copy(image, image.with_name("again_000000_000019_leftImg8bit.png"))
    shutil.copy(label, label.with_name("again_000000_000019_gtFine_labelIds.png"))
    sums = ["--hash", str(tmp_path / "sums")]
    code, faults, _ = check_masks_main(capsys, copy, "--splits", "train", *sums)
    assert code == 1 and len(faults) == 1 and "is there again as" in faults[0] and "again_000000" in faults[0]


def test_45_the_score_is_of_the_whole_set_at_native_size(copy):
    class AllRoad(nn.Module):
        def forward(self, images):
            logits = images.new_zeros(len(images), 19, images.shape[2] // 8, images.shape[3] // 8)
            logits[:, 0] = 1
            return logits

    for label in copy.glob("gtFine/val/*/*_labelIds.png"):
        label.unlink()
    labels = np.full((96, 192), 7, np.uint8)
    labels[1, 3] = labels[3, 5] = 26  # any resizing of the labels would lose or grow these
    for number, image in enumerate(sorted(copy.glob("leftImg8bit/val/*/*.png"))):
        name = image.name.replace("leftImg8bit", "gtFine_labelIds")
        Image.fromarray(labels if number == 0 else np.full((96, 192), 7, np.uint8)).save(
            copy / "gtFine" / "val" / image.parent.name / name
        )
    dataset = Cityscapes(copy, "val")
    settings = {"mean": [0.5] * 3, "std": [0.5] * 3, "accelerator": make_accelerator()}
    metrics = evaluate_model(AllRoad(), dataset, **settings).metrics
    pixels = 5 * 96 * 192
    assert metrics["iou/road"] == (pixels - 2) / pixels and metrics["iou/car"] == 0
    assert metrics["miou"] == (pixels - 2) / pixels / 2


class Endless(SegDataset):
    """Images that are drawn when asked for."""

    classes, colors = [f"class {number}" for number in range(19)], [(number, 0, 0) for number in range(19)]
    ids = labels_of_ids = np.arange(256, dtype=np.uint8)

    def __init__(self, count: int) -> None:
        self.transform, self.seed, self.count = None, 0, count

    def __len__(self) -> int:
        return self.count

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(number)
        labels = random.integers(0, 19, (16, 32), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        return np.repeat(labels[:, :, None], 3, axis=2), labels


def test_46_the_memory_of_an_evaluation_does_not_grow_with_the_set():
    class Echo(nn.Module):
        def forward(self, images):
            return torch.randn(1, 19, images.shape[2] // 8, images.shape[3] // 8)

    accelerator = make_accelerator()
    label = model_labels(Echo(), mean=[0.5] * 3, std=[0.5] * 3, device=accelerator.device, inference=WHOLE_IMAGES)
    peaks = []
    for count in (30, 300):
        evaluate(label, Endless(count), accelerator=accelerator, workers=0, num_worst=6)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 10 * 1024  # kB; the 270 further images and labels are 36 MB


def test_labels_of_cityscapes_make_no_sense_with_a_classes_file(tmp_path):
    classes = make_garden(tmp_path)
    with pytest.raises(InputError, match="labels gtCoarse: are Cityscapes'"):
        open_data(tmp_path, "train", classes=classes, annotation="gtCoarse")
