"""Trains one network for segmentation and detection, on one data set with both truths or on a data set for each.

python -m tools.train_joint configs/joint/cityscapes.yaml run.out=runs/joint
python -m tools.train_joint configs/joint/separate.yaml segmentation.data.root=camvid detection.data.root=/data/coco
python -m tools.train_joint configs/joint/add_detection.yaml weights=runs/seg/best.safetensors detection.data.root=boxes
python -m tools.train_joint runs/joint/config.yaml --resume
torchrun --nproc-per-node 4 -m tools.train_joint configs/joint/cityscapes.yaml
"""

from tools.io.console import run
from tools.run.config import JointConfig, parse_arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(JointConfig, argv, "train_joint", __doc__)
    if arguments is None:
        return 0
    from tools.joint.training import make_task
    from tools.run.runner import run_task

    return run_task(make_task, arguments)


if __name__ == "__main__":
    run(main)
