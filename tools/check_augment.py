"""Draws training samples with their labels or boxes, exactly as a training run of this config sees them.

python -m tools.check_augment seg configs/cityscapes/weather.yaml data.root=/data/cityscapes --out samples.png
python -m tools.check_augment det configs/coco/weather.yaml data.root=/data/coco --out samples.png --count 24
python -m tools.check_augment det runs/large/config.yaml --epoch 3 --out samples.png
"""

from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, run
from tools.run.config import DetConfig, SegConfig, load

MOST = 200


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("check_augment", __doc__)
    parser.add_argument("task", choices=("seg", "det"), help="whose config it is: segmentation or detection")
    parser.add_argument("config", type=Path, help="YAML file; see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, e.g. augment.more=[]")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="image to write")
    parser.add_argument("--count", type=int, default=12, help="samples, spread over the training split; default: 12")
    parser.add_argument("--epoch", type=int, default=0, help="draw them as this epoch does, from 0; default: 0")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.out.suffix.lower() != ".png":
        raise InputError(f"--out {arguments.out}: give a name that ends in .png")
    if not 1 <= arguments.count <= MOST or arguments.epoch < 0:
        raise InputError(f"--count must be 1 to {MOST} and --epoch at least 0")

    keys = arguments.overrides
    if arguments.task == "seg":
        config = load(SegConfig, arguments.config, keys)
    else:
        config = load(DetConfig, arguments.config, keys)

    from tools.checks import augment

    if isinstance(config, SegConfig):
        augment.draw_segmentation(config, arguments.count, arguments.epoch, arguments.out)
    else:
        augment.draw_detection(config, arguments.count, arguments.epoch, arguments.out)
    return 0


if __name__ == "__main__":
    run(main)
