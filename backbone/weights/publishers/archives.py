"""The authors' archives of TensorFlow checkpoints: fetched, checked against their first download, safely unpacked."""

import gzip
import hashlib
import io
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from backbone.errors import InputError
from backbone.weights.publishers import cache
from backbone.weights.publishers.download import download

DEEPLAB = "https://storage.googleapis.com/download.tensorflow.org/models"
"""The files of http://download.tensorflow.org, at an address with https."""
DETECTION = f"{DEEPLAB}/object_detection"
SLIM = "https://storage.googleapis.com/mobilenet_v3/checkpoints"
MAX_BYTES = 1_000_000_000
"""Of an archive, unpacked."""
MAX_FILES = 1000
PLAIN = re.compile(r"(^|/)model\.ckpt(-\d+)?\.(index|data-\d{5}-of-\d{5})$")
AVERAGED = re.compile(r"(^|/)ema/model-\d+\.(index|data-\d{5}-of-\d{5})$")
"""TF-slim's archives have the weights twice; these are their moving averages, which the published scores are of."""


class Archive(NamedTuple):
    """A .tar.gz that holds a TensorFlow checkpoint."""

    address: str
    members: re.Pattern[str] = PLAIN  # what the names of the checkpoint's files in it match

    @property
    def file_name(self) -> str:
        return Path(urlsplit(self.address).path).name


ARCHIVES = {
    "deeplab/lraspp_large_cityscapes": Archive(f"{DEEPLAB}/deeplab_mnv3_large_cityscapes_trainfine_2019_11_15.tar.gz"),
    "deeplab/lraspp_small_cityscapes": Archive(f"{DEEPLAB}/deeplab_mnv3_small_cityscapes_trainfine_2019_11_15.tar.gz"),
    "tensorflow/mobilenet_v3_large": Archive(f"{SLIM}/v3-large_224_1.0_float.tgz", AVERAGED),
    "tensorflow/mobilenet_v3_large_075": Archive(f"{SLIM}/v3-large_224_0.75_float.tgz", AVERAGED),
    "tensorflow/mobilenet_v3_large_minimalistic": Archive(f"{SLIM}/v3-large-minimalistic_224_1.0_float.tgz", AVERAGED),
    "tensorflow/mobilenet_v3_small": Archive(f"{SLIM}/v3-small_224_1.0_float.tgz", AVERAGED),
    "tensorflow/mobilenet_v3_small_075": Archive(f"{SLIM}/v3-small_224_0.75_float.tgz", AVERAGED),
    "tensorflow/mobilenet_v3_small_minimalistic": Archive(f"{SLIM}/v3-small-minimalistic_224_1.0_float.tgz", AVERAGED),
    "tensorflow/ssdlite_large_coco": Archive(f"{DETECTION}/ssd_mobilenet_v3_large_coco_2020_01_14.tar.gz"),
    "tensorflow/ssdlite_small_coco": Archive(f"{DETECTION}/ssd_mobilenet_v3_small_coco_2020_01_14.tar.gz"),
    "tensorflow/ssdlite_v2_coco": Archive(f"{DETECTION}/ssdlite_mobilenet_v2_coco_2018_05_09.tar.gz"),
}


def find(name: str) -> Path | None:
    """The .index file of the unpacked checkpoint, None if there is none.

    Raises:
        InputError: no archive has this name.
    """
    if name not in ARCHIVES:
        raise InputError(f"{name}: no such archive; valid: {', '.join(ARCHIVES)}")
    return next(_folder(name).glob("*.index"), None)


def fetch(name: str) -> Path:
    """Downloads and unpacks an archive, or unpacks the one that somebody has put into the cache by hand.

    Raises:
        InputError: it does not arrive whole, is another one than at the first time on this machine, or is no archive
            of a checkpoint, or one that would write elsewhere.
    """
    archive, folder = ARCHIVES[name], _folder(name)
    by_hand = folder.parent / archive.file_name
    try:
        if by_hand.is_file():
            with open(by_hand, "rb") as file:
                cache.check_first_digest(name, by_hand, hashlib.file_digest(file, "sha256").hexdigest())
            unpack(by_hand, folder, archive.members)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as own:
                path = Path(own) / archive.file_name
                cache.check_first_digest(name, by_hand, download(name, archive.address, path, place=by_hand))
                unpack(path, folder, archive.members)
    except OSError as error:
        raise InputError(
            f"{name}: {folder.parent} cannot be written ({error.strerror or error}); make it writable or make room, "
            f"or set {cache.VARIABLE} to another folder"
        ) from error
    return next(folder.glob("*.index"))


def _folder(name: str) -> Path:
    return cache.ours() / name


class _Bounded(io.BufferedIOBase):
    """A stream that ends with an error instead of giving more than `MAX_BYTES`."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream, self.left = stream, MAX_BYTES

    def read(self, size: int | None = -1) -> bytes:
        found = self.stream.read(size)
        self.left -= len(found)
        if self.left < 0:
            raise tarfile.TarError(f"it has more than the {MAX_BYTES} bytes allowed")
        return found


def unpack(archive: Path, folder: Path, members: re.Pattern[str]) -> None:
    """Writes the files of an archive whose names match into a new folder, all beside each other.

    The folder appears whole or not at all; one that another process has put there meanwhile is left as it is.

    Raises:
        InputError: the archive is damaged, too large, without such files, or one of its members would lie outside.
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        try:
            _extract(archive, temporary, members)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{archive}: not unpacked ({error}); fetch it again") from error
        if not any(temporary.glob("*.index")):
            raise InputError(f"{archive}: holds no TensorFlow checkpoint (.index and .data files); fetch it again")
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not any(folder.glob("*.index")):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, folder: Path, members: re.Pattern[str]) -> None:
    # Read as a stream behind a bound: nothing is believed that a header says of sizes.
    with gzip.open(archive) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r|") as tar:
        for count, member in enumerate(tar):
            if count >= MAX_FILES:
                raise tarfile.TarError(f"it has more than the {MAX_FILES} files allowed")
            # Refuses what would lie outside the folder, links to outside, and devices; a leading slash is dropped.
            member = tarfile.data_filter(member, str(folder))
            if member is None or not member.isfile() or not members.search(member.name):
                continue
            target = folder / Path(member.name).name
            if target.exists():
                raise tarfile.TarError(f"it has {target.name} twice")
            stored = tar.extractfile(member)
            assert stored is not None  # it is a regular file
            with open(target, "wb") as file:
                shutil.copyfileobj(stored, file)
