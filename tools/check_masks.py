"""Checks a copy of Cityscapes, or one's own images and masks: every file is decoded, every fault gets a line.

    python -m tools.check_masks /data/cityscapes
    python -m tools.check_masks /data/cityscapes --splits val --workers 4
    python -m tools.check_masks /data/cityscapes --hash cityscapes.sha256
    python -m tools.check_masks garden --classes garden/classes.yaml

Prints images per split and city, sizes and pixels per class, and writes an image of samples with their labels.
Exit code 1 if something is wrong. Cities of the real data set must have as many images as there. No decoder notices
a bit that flipped inside a JPEG: `--hash FILE` writes the SHA-256 of every file, and compares once FILE is there (so
does `sha256sum -c` in the data set's folder); it also finds images that are there twice.
"""

from pathlib import Path

from tools.checks.options import add_options
from tools.io.console import command_parser, run


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("check_masks", __doc__)
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("--classes", type=Path, help="classes.yaml of one's own data; without it, Cityscapes")
    parser.add_argument("--splits", nargs="+", help="default: all that Cityscapes' folder holds, else train and val")
    parser.add_argument("--hash", type=Path, metavar="FILE", help="compare SHA-256 sums; written if it is not there")
    add_options(parser)
    arguments = parser.parse_args(argv)
    # After the arguments: torch takes seconds to import.
    from tools.checks import masks
    from tools.checks.samples import report_faults

    faults = masks.check(
        arguments.root,
        classes=arguments.classes,
        splits=arguments.splits,
        hashes=arguments.hash,
        out=arguments.out,
        leave_out=arguments.leave_out,
        workers=arguments.workers,
    )
    return report_faults(faults)


if __name__ == "__main__":
    run(main)
