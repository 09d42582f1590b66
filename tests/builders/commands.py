"""Commands as a user starts them."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools import check_coco, check_masks

ROOT = Path(__file__).parents[2]


HEAVY = ("albumentations", "cv2", "matplotlib", "numpy", "pycocotools", "torch", "torchvision")


def run_fresh(*arguments: str) -> tuple[int, str, str, set[str]]:
    """Runs `taproot` in a new process: exit code, output, errors, and which heavy libraries it imported."""
    program = (
        "import sys\n"
        "from tools.io.console import run\n"
        "from tools.cli import dispatch\n"
        "try:\n"
        "    run(lambda: dispatch(sys.argv[1:]))\n"
        "finally:\n"
        f"    print('imported', *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    *errors, imported = child.stderr.splitlines()
    return child.returncode, child.stdout, "\n".join(errors), set(imported.split()[1:])


def run_check(main: Callable[[list[str]], int], capsys, root: Path, *options: str) -> tuple[int, list[str], str]:
    """Checks a data set: exit code, the lines of its faults, and all output."""
    code = main([str(root), "--workers", "0", "--out", str(root / "samples.png"), *options])
    text = capsys.readouterr().out
    return code, [line for line in text.splitlines() if line.startswith("fault: ")], text


check_coco_main = partial(run_check, check_coco.main)
check_masks_main = partial(run_check, check_masks.main)
