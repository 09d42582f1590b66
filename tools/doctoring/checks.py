"""Checks of the machine and the installation, each a function that gives findings."""

import math
import os
import shutil
import tomllib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from packaging.requirements import InvalidRequirement, Requirement

OK, NOTE, FAULT = "ok", "note", "FAULT"
"""Levels of a finding: as it should be, good to know, will not work."""
MALICIOUS = {"ultralytics": ("8.3.41", "8.3.42", "8.3.45", "8.3.46"), "lightning": ("2.6.2", "2.6.3")}
"""Releases that ran a stranger's code, by package."""
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
"""Packages that share the folder `cv2`."""
SHARED_MEMORY = Path("/dev/shm")
SMALL_SHARED_MEMORY = 1e9
RUN_BYTES = 300e6
"""Bytes that a run of MobileNetV3-Large takes: two states, one being written, the best weights, logs."""
LITTLE_MEMORY = 2e9


class Finding(NamedTuple):
    """What a check found."""

    level: str
    text: str
    cure: str = ""


def examine(out: Path, data: Path | None) -> list[Finding]:
    """All checks, in the order in which they are to be read.

    Arguments:
        out: where runs will be written.
        data: a data set's folder, or None.
    """
    findings = check_packages() + check_opencv() + check_gpu() + check_threads() + check_memory()
    findings += check_shared_memory() + check_disk(out, RUN_BYTES) + check_display()
    return findings + (check_data(data) if data is not None else [])


def requirements() -> list[Requirement]:
    """The packages that this one needs, with their versions: from pyproject.toml of a checkout, else as installed."""
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    if pyproject.is_file():
        lines = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        lines = metadata.requires("taproot") or []
    wanted = []
    for line in lines:
        try:
            wanted.append(Requirement(line))
        except InvalidRequirement:
            continue  # pip has checked them; extras of other tools' making do not matter here
    return [each for each in wanted if each.marker is None]


def check_packages() -> list[Finding]:
    """Packages that are missing, too old, or known to be malicious."""
    findings = []
    for wanted in requirements():
        found = installed(wanted.name)
        if found is None:
            findings.append(Finding(FAULT, f"{wanted.name} is not installed", f"pip install '{wanted}'"))
        elif not wanted.specifier.contains(found, prereleases=True):
            findings.append(
                Finding(FAULT, f"{wanted.name} is {found}, needed is {wanted.specifier}", f"pip install '{wanted}'")
            )
    for name, versions in MALICIOUS.items():
        if (found := installed(name)) in versions:
            findings.append(
                Finding(FAULT, f"{name} {found} is a release that ran a stranger's code", f"pip uninstall {name}")
            )
    try:
        import torchvision.ops

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        findings.append(
            Finding(
                FAULT,
                f"torchvision {installed('torchvision')} does not fit torch {torch.__version__} ({_line(error)})",
                "install both from the same index, in the same command",
            )
        )
    return findings or [Finding(OK, f"packages: torch {torch.__version__}, torchvision {installed('torchvision')}")]


def check_opencv() -> list[Finding]:
    """Wheels of OpenCV that overwrite each other, and one without windows."""
    wheels = [name for name in OPENCV if installed(name) is not None]
    line = next((line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")), "")
    cure = "pip install --force-reinstall --no-deps opencv-python"
    if "NONE" in line:
        return [Finding(NOTE, f"OpenCV has no windows: {' and '.join(wheels)} share its folder", f"for --show, {cure}")]
    text = f"OpenCV {cv2.__version__}, with windows"
    if len(wheels) > 1:
        return [Finding(NOTE, f"{text}; {' and '.join(wheels)} share its folder", f"should it break, {cure}")]
    return [Finding(OK, text)]


def check_gpu() -> list[Finding]:
    """The GPUs that torch sees, and one that it does not."""
    if torch.cuda.is_available():
        count, properties = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        text = f"{count} GPU, {properties.name} with {properties.total_memory / 1e9:.0f} GB"
        return [Finding(OK, f"{text}; run.precision={bf16} is fast on it")]
    if shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists():
        return [
            Finding(
                FAULT,
                f"there is an NVIDIA GPU that torch {torch.__version__} cannot use",
                "the driver is too old for this torch, or this is a CPU wheel: update the driver, or reinstall torch",
            )
        ]
    return [Finding(NOTE, "no GPU: training runs on the CPU")]


def check_threads() -> list[Finding]:
    """Threads that wait for cores which they do not have."""
    cores, threads = usable_cores(), torch.get_num_threads()
    load = os.getloadavg()[0]
    text = f"{threads} threads on {cores:g} cores, load {load:.1f}"
    if threads > math.ceil(cores):
        return [Finding(NOTE, text, f"OMP_NUM_THREADS={max(1, int(cores))} is faster: others limit this process")]
    if threads > 1 and load > cores:
        return [Finding(NOTE, text, "others use this machine; OMP_NUM_THREADS=1 is often fastest then")]
    return [Finding(OK, text)]


def usable_cores() -> float:
    """The cores that this process may use, by its affinity and its control group's quota."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, int(limit) / int(period))
    return cores


def check_memory() -> list[Finding]:
    """Memory that is nearly used up."""
    information = Path("/proc/meminfo")
    if not information.is_file():
        return []
    rows = dict(line.split(":") for line in information.read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    text = f"{free / 1e9:.1f} GB of memory free"
    if free < LITTLE_MEMORY:
        return [Finding(NOTE, text, "lower run.batch (run.accumulate=2 halves its memory) or data.workers")]
    return [Finding(OK, text)]


def check_shared_memory() -> list[Finding]:
    """Shared memory, through which loader workers hand over batches."""
    if not SHARED_MEMORY.is_dir():
        return []
    free = shutil.disk_usage(SHARED_MEMORY).free
    text = f"{SHARED_MEMORY} has {free / 1e9:.2f} GB free"
    if free < SMALL_SHARED_MEMORY:
        return [Finding(NOTE, text, "loader workers may die; give a container --shm-size=8g, or set data.workers=0")]
    return [Finding(OK, text)]


def check_disk(out: Path, needed: float) -> list[Finding]:
    """Whether a run's files have space and may be written.

    Arguments:
        out: their folder, which need not be there yet.
        needed: their size in bytes.
    """
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return [Finding(FAULT, f"{out}: nothing can be written there", "choose another run.out")]
    free = shutil.disk_usage(folder).free
    text = f"{out}: {free / 1e9:.2f} GB free, a run's checkpoints take about {needed / 1e9:.2f} GB"
    return [Finding(FAULT, text, "free space, or choose another run.out") if free < needed else Finding(OK, text)]


def check_display() -> list[Finding]:
    """Whether windows can open."""
    if os.name == "posix" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return [Finding(NOTE, "no display: tools.video --show cannot open a window", "use --output")]
    return [Finding(OK, "there is a display")]


def check_data(root: Path) -> list[Finding]:
    """Whether a data set's folder is there and of a known layout; its files are for the check commands to decode."""
    if not root.is_dir():
        return [Finding(FAULT, f"{root}: no such folder", "give the data set's folder, as data.root")]
    layouts = {
        "leftImg8bit": "Cityscapes; tools.check_masks decodes every file",
        "annotations": "COCO's layout; tools.check_coco decodes every file",
        "train": "one folder per class, if train/ holds folders of images",
        "classes.yaml": "own images and masks; tools.check_masks --classes decodes every file",
    }
    for name, text in layouts.items():
        if (root / name).exists():
            return [Finding(OK, f"{root}: {text}")]
    return [Finding(NOTE, f"{root}: of no known layout (none of {', '.join(layouts)})", "see docs/own-data.md")]


def installed(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
