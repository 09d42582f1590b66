"""ONNX Runtime for browsers: four files of one published version, fetched by the user's npm and kept in our cache.

python -m tools.browsing.runtime        fetches them, unless they are there
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from backbone.errors import InputError
from backbone.weights.publishers import cache
from tools.io.console import console, run

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package's archive, in base64."""
FILES = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""What the page loads: the processor's script and program, and WebGPU's."""
TIMEOUT_S = 600


def kept_folder() -> Path:
    """Where our cache keeps FILES."""
    return cache.ours() / f"{PACKAGE}-{VERSION}"


def is_complete(folder: Path) -> bool:
    """Whether a folder holds FILES."""
    return all((folder / name).is_file() for name in FILES)


def find_runtime(folder: Path | None) -> Path:
    """The folder that holds FILES: the one given, our cache's, or, fetched by npm, our cache's from now on.

    Arguments:
        folder: the unpacked package or its `dist`, for machines without a network.

    Raises:
        InputError: the files are not there and cannot be fetched.
    """
    if folder is not None:
        for place in (folder, folder / "dist", folder / "package" / "dist"):
            if is_complete(place):
                return place
        raise InputError(f"--runtime {folder}: lacks {FILES[0]}; give the unpacked npm package {PACKAGE}@{VERSION}")
    kept = kept_folder()
    if not is_complete(kept):
        _fetch(kept)
    return kept


def main() -> int:
    console.print(f"{PACKAGE} {VERSION}: {find_runtime(None)}", soft_wrap=True)
    return 0


def _fetch(kept: Path) -> None:
    """Has npm fetch the package, checks it, and keeps FILES of it."""
    wanted = f"{PACKAGE}@{VERSION}"
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"{wanted}: is fetched by npm, not installed; install Node.js, or give --runtime FOLDER")
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch", dir=kept.parent) as folder:
            command = [npm, "pack", wanted, "--silent", "--pack-destination", folder]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            archives = list(Path(folder).glob("*.tgz"))
            if done.returncode or not archives:
                reason = (done.stderr.strip().splitlines() or ["it gave no archive"])[-1]
                raise InputError(f"{wanted}: npm did not fetch it ({reason}); give --runtime FOLDER")
            check_integrity(archives[0])
            with tarfile.open(archives[0]) as archive:
                for name in FILES:
                    archive.extract(f"package/dist/{name}", folder, filter="data")
            for name in FILES:
                (Path(folder) / "package" / "dist" / name).replace(kept / name)
    except subprocess.TimeoutExpired:
        raise InputError(f"{wanted}: npm did not fetch it in {TIMEOUT_S} s; give --runtime FOLDER") from None
    except OSError as error:
        raise InputError(
            f"{kept}: cannot be written ({error.strerror or error}); make room, or give --runtime FOLDER"
        ) from error


def check_integrity(archive: Path) -> None:
    """Raises an InputError where a package's archive is not the one published."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise InputError(
            f"{archive.name}: is not {PACKAGE} {VERSION} as published (its SHA-512 differs); ask npm again"
        )


if __name__ == "__main__":
    run(main)
