"""Pictures and masks from disk: every usual format reads, every damaged one is an error that names the file."""

import cv2
import numpy as np
import pytest
from PIL import Image

from backbone import InputError, images


@pytest.fixture
def photo() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return cv2.resize(noise, (320, 240))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LA", "I;16"])
def test_every_mode_gives_three_channels_of_bytes(tmp_path, photo, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"picture.{suffix}"
    if mode == "I;16":
        cv2.imwrite(str(path), photo[:, :, 0].astype(np.uint16) * 200)
    else:
        Image.fromarray(photo[:, :, ::-1].copy()).convert(mode).save(path)
    image = images.read_image(path)
    assert (image.shape, image.dtype) == ((240, 320, 3), np.uint8)
    assert images.image_size(path) == (240, 320)


def test_exif_orientation_turns_picture_and_size_alike(tmp_path, photo):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(path, exif=exif)
    assert images.read_image(path).shape[:2] == images.image_size(path) == (320, 240)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_files_cut_short_are_refused(tmp_path, photo, suffix):
    path = tmp_path / f"cut.{suffix}"
    cv2.imwrite(str(path), photo)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.\w+: the picture is cut short"):
        images.read_image(path)


def test_damaged_png_is_refused(tmp_path, photo):
    path = tmp_path / "damaged.png"
    cv2.imwrite(str(path), photo)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        images.read_image(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_files_that_are_no_pictures_are_refused(tmp_path, content):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"page\.jpg: not a picture"):
        images.read_image(path)
    with pytest.raises(InputError, match=r"page\.jpg: not a picture"):
        images.image_size(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.jpg: cannot be read"):
        images.read_image(tmp_path / "absent.jpg")


def test_huge_picture_is_refused_before_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (12_000, 9_000)).save(path)
    with pytest.raises(InputError, match="limit"):
        images.read_image(path)


def test_palette_mask_gives_indices(tmp_path):
    mask = Image.fromarray(np.array([[0, 1, 2, 33]], np.uint8), "L").convert("L")
    mask.putpalette([10, 20, 30] * 256, "RGB")
    mask.save(tmp_path / "mask.png")
    assert images.read_label(tmp_path / "mask.png").tolist() == [[0, 1, 2, 33]]


def test_masks_of_the_wrong_kind_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "color.png")
    with pytest.raises(InputError, match="one id per pixel"):
        images.read_label(tmp_path / "color.png")
    cv2.imwrite(str(tmp_path / "instances.png"), np.full((4, 4), 26_001, np.uint16))
    with pytest.raises(InputError, match="found 26001"):
        images.read_label(tmp_path / "instances.png")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "I;16"])
@pytest.mark.parametrize("rows", [None, 1, 17, 64, 100])
def test_the_faster_decoder_gives_opencvs_pixels(tmp_path, monkeypatch, mode, rows):
    pytest.importorskip("pyspng")
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(noise)
    path = tmp_path / "picture.png"
    (picture if mode == "I;16" else picture.convert(mode)).save(path)
    kinds = [images.read_image] + [images.read_label] * (mode in ("L", "P"))
    found = [read(path, rows) for read in kinds]
    monkeypatch.setattr(images, "pyspng", None)
    for values, read in zip(found, kinds, strict=True):
        whole = read(path)
        assert len(values) >= min(rows or 64, 64) and values.dtype == np.uint8
        assert (values == whole[: len(values)]).all()


def test_the_faster_decoder_notices_every_flipped_byte(tmp_path):
    pytest.importorskip("pyspng")
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for position in [*range(8, 50), *range(50, len(data), 97), *range(len(data) - 12, len(data))]:
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(InputError, match=r"picture\.png: "):
            images.read_image(path, 3)
        path.write_bytes(data[:position])
        with pytest.raises(InputError, match=r"picture\.png: "):
            images.read_image(path, 3)
