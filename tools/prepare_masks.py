"""Decodes Cityscapes, or one's own images and masks, once, so that training reads crops and decodes nothing.

    python -m tools.prepare_masks /data/cityscapes /fast/cityscapes
    python -m tools.prepare_masks garden /fast/garden --classes garden/classes.yaml
    python -m tools.train_seg CONFIG.yaml data.root=/data/cityscapes data.prepared=/fast/cityscapes

Samples are the same to the bit. Four bytes per pixel: 25 GB for Cityscapes' train, 4 GB for val. After an interruption
the same command goes on; after images were added or changed it prepares these and removes what is no longer needed.
"""

from pathlib import Path

from seg.options import ANNOTATIONS
from tools.io.console import command_parser, console, num_workers, run


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("prepare_masks", __doc__)
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("out", type=Path, help="folder for the copy")
    parser.add_argument("--classes", type=Path, help="classes.yaml of one's own data; without it, Cityscapes")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="default: train and val")
    parser.add_argument("--labels", default="gtFine", choices=ANNOTATIONS, help="of Cityscapes; default: gtFine")
    parser.add_argument("--workers", type=num_workers, default=2, help="decoding processes; default: 2")
    arguments = parser.parse_args(argv)
    # After the arguments: torch takes seconds to import.
    from seg.data.opening import open_data
    from tools.converters.masks import prepare_split

    for split in arguments.splits:
        dataset = open_data(arguments.root, split, classes=arguments.classes, annotation=arguments.labels)
        prepare_split(dataset, arguments.out, workers=arguments.workers)
    console.print(f"train with data.prepared={arguments.out}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
