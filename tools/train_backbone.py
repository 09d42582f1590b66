"""Trains a classifier on a folder of images by class, from scratch or from any published weights.

python -m tools.train_backbone configs/imagenet/torchvision_large.yaml data.root=/data/imagenet run.out=runs/large
python -m tools.train_backbone configs/imagenet/finetune.yaml data.root=flowers weights=mobilenet_v3_large.pth
python -m tools.train_backbone runs/large/config.yaml --resume
python -m tools.train_backbone configs/imagenet/finetune.yaml data.root=flowers --find-lr    # leaves lr_range.png
"""

from backbone.errors import InputError
from tools.io.console import run
from tools.run.config import BackboneConfig, parse_arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(BackboneConfig, argv, "train_backbone", __doc__)
    if arguments is None:
        return 0
    if arguments.config.run.compile and arguments.config.model.drop_block:
        raise InputError("run.compile with model.drop_block: its probability changes in every step; choose one of them")
    from tools.run.classification import make_task
    from tools.run.runner import run_task

    return run_task(make_task, arguments)


if __name__ == "__main__":
    run(main)
