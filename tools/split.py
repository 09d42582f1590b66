"""Writes the single models that a joint network is made of: files that every tool for one task takes.

    python -m tools.split runs/joint/best.safetensors runs/joint
    python -m tools.split runs/joint/best.safetensors seg.safetensors --head segmentation
    python -m tools.eval_seg --weights runs/joint/segmentation.safetensors --data /data/cityscapes

Without --head, the second argument is a folder, and each head's file in it has the head's name. A single model gives,
to the bit, what its head gives in the joint network.
"""

from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, run

ENDING = ".safetensors"


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("split", __doc__)
    parser.add_argument("weights", type=Path, metavar="JOINT", help="best.safetensors of a joint run")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write into; with --head, the file")
    parser.add_argument("--head", metavar="NAME", help="this head only")
    arguments = parser.parse_args(argv)
    if arguments.head is not None and arguments.out.suffix != ENDING:
        raise InputError(f"{arguments.out}: with --head, give the file to write, {ENDING}")
    if arguments.head is None and arguments.out.suffix == ENDING:
        raise InputError(f"{arguments.out}: give a folder to write into, or say which head with --head")
    # After the arguments: torch takes seconds to import.
    from tools.io.model_file import load_description
    from tools.joint.weights import split_file

    if arguments.head is None:
        heads = load_description(arguments.weights).get("heads", {})
        out = {name: arguments.out / f"{name}{ENDING}" for name in heads}
    else:
        out = {arguments.head: arguments.out}
    split_file(arguments.weights, out)
    for name, file in out.items():
        console.print(f"{name}: {file}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
