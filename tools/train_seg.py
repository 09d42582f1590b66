"""Trains a segmenter on Cityscapes, on data in its layout, or on any images and masks (data.classes=classes.yaml).

python -m tools.train_seg configs/cityscapes/lraspp_large.yaml data.root=/data/cityscapes run.out=runs/large
python -m tools.train_seg runs/large/config.yaml --resume
torchrun --nproc-per-node 4 -m tools.train_seg configs/cityscapes/lraspp_large.yaml data.root=/data/cityscapes
"""

from tools.io.console import run
from tools.run.config import SegConfig, parse_arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(SegConfig, argv, "train_seg", __doc__)
    if arguments is None:
        return 0
    from tools.run.runner import run_task
    from tools.run.segmentation import make_task

    return run_task(make_task, arguments)


if __name__ == "__main__":
    run(main)
