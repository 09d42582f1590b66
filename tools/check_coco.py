"""Checks a copy of COCO, or one's own data in its layout: every image is decoded, every fault gets a line.

    python -m tools.check_coco /data/coco
    python -m tools.check_coco /data/coco --split val2017 --workers 4
    python -m tools.check_coco /data/coco --split val2017 --out val2017.png
    python -m tools.check_coco /data/coco --split test-dev2017

Prints boxes per class and size, crowds and sizes of images, and writes an image of samples with their boxes. The
boxes of COCO's test splits are secret: of these (annotations/image_info_SPLIT.json) the images are checked.
Exit code 1 if something is wrong.
"""

from pathlib import Path

from tools.checks.options import add_options
from tools.io.console import command_parser, run


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("check_coco", __doc__)
    parser.add_argument("root", type=Path, help="folder with annotations/ and one folder of images per split")
    parser.add_argument("--split", nargs="+", help="default: every split of annotations/")
    add_options(parser)
    arguments = parser.parse_args(argv)
    # After the arguments: torch takes seconds to import.
    from tools.checks import coco
    from tools.checks.samples import report_faults

    faults = coco.check(
        arguments.root,
        splits=arguments.split,
        out=arguments.out,
        leave_out=arguments.leave_out,
        workers=arguments.workers,
    )
    return report_faults(faults)


if __name__ == "__main__":
    run(main)
