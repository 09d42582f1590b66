"""Images and masks from disk: every usual format reads, every damaged one is an error that names the file."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from backbone import InputError
from backbone.data import images


@pytest.fixture
def photo() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return cv2.resize(noise, (320, 240))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LA", "I;16"])
def test_every_mode_gives_three_channels_of_bytes(tmp_path, photo, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"image.{suffix}"
    if mode == "I;16":
        cv2.imwrite(str(path), photo[:, :, 0].astype(np.uint16) * 200)
    else:
        Image.fromarray(photo[:, :, ::-1].copy()).convert(mode).save(path)
    image = images.read_image(path)
    assert (image.shape, image.dtype) == ((240, 320, 3), np.uint8)
    assert images.image_size(path) == (240, 320)


def test_exif_orientation_turns_image_and_size_alike(tmp_path, photo):
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
    with pytest.raises(InputError, match=r"cut\.\w+: the image is cut short"):
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
def test_files_that_are_no_images_are_refused(tmp_path, content):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"page\.jpg: not an image"):
        images.read_image(path)
    with pytest.raises(InputError, match=r"page\.jpg: not an image"):
        images.image_size(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.jpg: cannot be read"):
        images.read_image(tmp_path / "absent.jpg")


def test_huge_image_is_refused_before_decoding(tmp_path):
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
    image = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(noise)
    path = tmp_path / "image.png"
    (image if mode == "I;16" else image.convert(mode)).save(path)
    kinds = [images.read_image] + [images.read_label] * (mode in ("L", "P"))
    found = [read(path, rows) for read in kinds]
    monkeypatch.setattr(images, "pyspng", None)
    for values, read in zip(found, kinds, strict=True):
        whole = read(path)
        assert len(values) >= min(rows or 64, 64) and values.dtype == np.uint8
        assert (values == whole[: len(values)]).all()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def interlaced(pixels: np.ndarray) -> bytes:
    """A PNG of 8 bits in seven passes, [H, W] or [H, W, 3]."""
    height, width = pixels.shape[:2]
    steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [pixels[top::down, left::right] for top, left, down, right in steps]
    lines = b"".join(b"\0" + line.tobytes() for part in passes for line in part)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 1)
    end = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return images.PNG_START + chunk(b"IHDR", header) + end


EXIF = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")  # orientation 6
SRGB = zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
EXTRAS = {  # for color, for grey
    "a strong gamma": [chunk(b"gAMA", struct.pack(">I", 220_000))] * 2,
    "sRGB": [chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 45_455))] * 2,
    "a color profile": [chunk(b"iCCP", b"x\0\0" + SRGB), b""],
    "fewer significant bits": [chunk(b"sBIT", b"\5\5\5"), chunk(b"sBIT", b"\5")],
    "a transparent color": [chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)), chunk(b"tRNS", struct.pack(">H", 1))],
    "an orientation": [EXIF] * 2,
    "an orientation behind the pixels": [EXIF] * 2,
}


@pytest.mark.parametrize("passes", [1, 7])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("extra", EXTRAS)
def test_no_decoder_changes_pixels_for_what_stands_beside_them(tmp_path, monkeypatch, extra, mode, passes):
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    pixels[4, 5] = 1, 2, 3
    pixels = pixels if mode == "RGB" else pixels[:, :, 0]
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    data = interlaced(pixels) if passes == 7 else path.read_bytes()
    at = len(data) - 12 if "behind" in extra else 33
    path.write_bytes(data[:at] + EXTRAS[extra][mode == "L"] + data[at:])
    for decoder in (images.pyspng, None):
        monkeypatch.setattr(images, "pyspng", decoder)
        if mode == "L":
            assert np.array_equal(images.read_label(path), pixels)
        else:
            turned = np.rot90(pixels, -1) if "orientation" in extra else pixels
            assert np.array_equal(images.read_image(path)[:, :, ::-1], turned)


def test_the_faster_decoder_notices_every_flipped_byte(tmp_path):
    pytest.importorskip("pyspng")
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for position in [*range(8, 50), *range(50, len(data), 97), *range(len(data) - 12, len(data))]:
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(InputError, match=r"image\.png: "):
            images.read_image(path, 3)
        path.write_bytes(data[:position])
        with pytest.raises(InputError, match=r"image\.png: "):
            images.read_image(path, 3)
