"""Scores a joint network, each head on its data: both tables, one metrics.json and one report.

    python -m tools.eval_joint --weights best.safetensors --segmentation camvid --classes camvid/classes.yaml \\
        --detection /data/coco
    python -m tools.eval_joint --weights best.safetensors --segmentation /data/cityscapes \\
        --detection /data/cityscapes --boxes cityscapes --report
    python -m tools.eval_joint --weights best.safetensors --detection /data/coco --split-detection val2017
    python -m tools.eval_joint --weights both_int8.xml --segmentation /data/cityscapes --detection /data/coco

The heads are scored by the protocols of tools.eval_seg and tools.eval_det, each at the input size of its own: whole
images for segmentation, the size it was trained at for detection. A head whose data are not given is not scored.
An exported file is scored at its own size.
"""

import argparse
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, num_workers, run
from tools.options import ENGINES


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; whatever can be refused without looking at files is."""
    parser = command_parser("eval_joint", __doc__)
    parser.add_argument(
        "--weights", required=True, type=Path, help="best.safetensors of a joint run, or an exported file"
    )
    parser.add_argument("--engine", choices=ENGINES, help="what runs the weights; default: torch, or an export's own")
    parser.add_argument("--segmentation", type=Path, metavar="DATA", help="data of the segmentation head")
    parser.add_argument("--classes", type=Path, help="classes.yaml of these; without it, Cityscapes")
    parser.add_argument("--split-segmentation", default="val", metavar="SPLIT", help="default: val")
    parser.add_argument("--detection", type=Path, metavar="DATA", help="data of the detection head")
    parser.add_argument(
        "--boxes", choices=("coco", "cityscapes"), default="coco", help="layout of these; default: coco"
    )
    parser.add_argument("--split-detection", metavar="SPLIT", help="default: val2017, of cityscapes val")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights")
    parser.add_argument("--report", action="store_true", help="write report.html, which opens offline, into --out")
    parser.add_argument("--workers", type=num_workers, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)
    if arguments.segmentation is None and arguments.detection is None:
        raise InputError("nothing to score on; give --segmentation DATA, --detection DATA or both")
    if arguments.segmentation is None and arguments.classes is not None:
        raise InputError("--classes are those of the data of --segmentation; give these too")
    if arguments.split_detection is None:
        arguments.split_detection = {"coco": "val2017", "cityscapes": "val"}[arguments.boxes]
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # After the arguments: torch takes seconds to import.
    from tools.io.files import open_folder
    from tools.joint.scoring import finish_joint, open_subjects, score_detection, score_segmentation
    from tools.run.processes import make_accelerator

    accelerator = make_accelerator()
    out = arguments.out or arguments.weights.parent
    subjects = open_subjects(arguments.weights, arguments.engine, accelerator.device)
    for name, subject in subjects._asdict().items():
        if getattr(arguments, name) is not None and subject is None:
            raise InputError(f"{arguments.weights}: has no {name} head; leave --{name} out")
    if accelerator.is_main_process:
        open_folder(out)
    scored = {}
    if arguments.segmentation is not None and subjects.segmentation is not None:
        scored["segmentation"] = score_segmentation(arguments, subjects.segmentation, accelerator)
    if arguments.detection is not None and subjects.detection is not None:
        scored["detection"] = score_detection(arguments, subjects.detection, accelerator, out)
    if accelerator.is_main_process:
        finish_joint(out, arguments.weights, scored, report=arguments.report)
        if arguments.weights.suffix == ".safetensors":
            console.print(f"next: python -m tools.split {arguments.weights} {out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
