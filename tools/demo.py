"""The three jobs on a painted street world: train a segmenter, train a detector, run both on a video.

    python -m tools.demo                          seven to eleven minutes on two CPU cores
    python -m tools.demo --short --out demo/short  a minute: proves that everything runs, learns little
    python -m tools.demo --pretrained             also from ImageNet weights, as many steps: scores beside each other

Each step prints the command that does the same on its own. What is there already is kept: a second call goes on where
the first one stopped.
"""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from backbone.weights.names import resolve
from tools.io.console import command_parser, console, run

SHORT_DATA = ["--train", "24", "--val", "8", "--clip-frames", "24"]
SHORT_SEG = ["run.steps=12", "run.eval_every=12", "run.batch=4", "augment.crop_hw=[128,256]"]
SHORT_DET = ["run.steps=12", "run.eval_every=12", "run.batch=4"]
NUM_SHOWN = 3
NETWORK = "efficientnet_lite0"
SCRATCH, PRETRAINED = "", "_pretrained"
"""The demo's two forms, as the names of their configs and folders end."""


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("demo", __doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything; default: demo")
    parser.add_argument("--short", action="store_true", help="a few steps on a few images")
    parser.add_argument(
        "--pretrained", action="store_true", help=f"then train both from {NETWORK}'s ImageNet weights, too"
    )
    arguments = parser.parse_args(argv)
    forms = [SCRATCH, PRETRAINED] if arguments.pretrained else [SCRATCH]
    if arguments.pretrained:
        resolve(NETWORK)  # says at once how to install it
    # Imported only now, so that --help and refusals come at once.
    from tools import eval_det, eval_seg, make_demo_data, train_det, train_seg, video
    from tools.demo_world.sheet import write_sheet

    out, short = arguments.out, arguments.short
    start = time.perf_counter()

    data = out / "data"
    step(make_demo_data.main, "make_demo_data", ["--out", str(data), *(SHORT_DATA if short else [])])
    for form in forms:
        seg_run, det_run = out / f"seg{form}", out / f"det{form}"
        seg_keys = [f"data.root={data / 'cityscapes'}", f"run.out={seg_run}", *(SHORT_SEG if short else [])]
        step(train_seg.main, "train_seg", [f"configs/demo/seg{form}.yaml", *seg_keys, *go_on(seg_run)])
        det_keys = [f"data.root={data / 'coco'}", f"run.out={det_run}", *(SHORT_DET if short else [])]
        if form == SCRATCH:
            det_keys.append(f"weights={seg_run / 'best.safetensors'}")
        step(train_det.main, "train_det", [f"configs/demo/det{form}.yaml", *det_keys, *go_on(det_run)])
        seg_weights, det_weights = (str(folder / "best.safetensors") for folder in (seg_run, det_run))
        step(eval_seg.main, "eval_seg", ["--weights", seg_weights, "--data", str(data / "cityscapes")])
        step(eval_det.main, "eval_det", ["--weights", det_weights, "--data", str(data / "coco")])
    form = forms[-1]
    runs = [out / f"seg{form}", out / f"det{form}"]
    weights = [folder / "best.safetensors" for folder in runs]
    models = [argument for path in weights for argument in ("--weights", str(path))]
    clip, sheet = out / f"street{form}.mp4", out / f"result{form}.png"
    step(video.main, "video", [*models, "--source", str(data / "street.mp4"), "--output", str(clip), "--overwrite"])
    write_sheet(sheet, weights, sorted((data / "coco" / "val2017").glob("*.jpg"))[:NUM_SHOWN])

    miou, ap50 = scores(out, forms, "seg", "miou"), scores(out, forms, "det", "AP50")
    console.rule("done")
    for line in (
        f"segmenter: mIoU over the classes present {miou}; curves {runs[0] / 'curves.png'}",
        f"detector:  AP50 {ap50}; curves {runs[1] / 'curves.png'}",
        f"look at    {sheet} and {clip}",
        f"took {time.perf_counter() - start:.0f} s. Next: your own data; see docs/own-data.md",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def scores(out: Path, forms: Sequence[str], task: str, metric: str) -> str:
    """A task's score in each form, beside each other."""
    found = [json.loads((out / f"{task}{form}" / "metrics.json").read_text())[metric] for form in forms]
    if len(found) == 1:
        return f"{found[0]:.3f}"
    scratch, pretrained = found
    return f"{scratch:.3f} from scratch, {pretrained:.3f} from ImageNet weights"


def step(tool: Callable[[list[str]], int | None], name: str, arguments: list[str]) -> None:
    """Runs a tool with the arguments of the command line that is printed; its failure ends the demo."""
    console.rule(style="dim")
    console.print(f"$ python -m tools.{name} {shlex.join(arguments)}", markup=False, soft_wrap=True)
    code = tool(arguments)
    if code:
        raise SystemExit(code)


def go_on(folder: Path) -> list[str]:
    """The option that goes on with a run, where there is one."""
    return ["--resume"] if (folder / "last.pt").exists() else []


if __name__ == "__main__":
    run(main)
