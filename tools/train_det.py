"""Trains a detector on COCO or on data in its layout.

python -m tools.train_det configs/coco/ssdlite_large.yaml data.root=/data/coco run.out=runs/large
python -m tools.train_det runs/large/config.yaml --resume
torchrun --nproc-per-node 4 -m tools.train_det configs/coco/ssdlite_large.yaml data.root=/data/coco
"""

from tools.io.console import run
from tools.run.config import DetConfig, parse_arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(DetConfig, argv, "train_det", __doc__)
    if arguments is None:
        return 0
    from tools.run.detection import make_task
    from tools.run.runner import run_task

    return run_task(make_task, arguments)


if __name__ == "__main__":
    run(main)
