"""Averages the weights of several checkpoints of one run, which often score better together than the best alone.

    python -m tools.average runs/large/best --out runs/large/average.safetensors
    python -m tools.eval_seg --data /data/cityscapes --weights runs/large/average.safetensors

A run with run.keep_best=5 keeps the weights of its five best evaluations in best/. Norm statistics are averaged as the
weights are. Evaluate the result before it is used: weights of different runs have no useful average.
"""

from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, run


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("average", __doc__)
    parser.add_argument("weights", nargs="+", type=Path, help="files of one model, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    arguments = parser.parse_args(argv)
    files = [
        file
        for given in arguments.weights
        for file in (sorted(given.glob("*.safetensors")) if given.is_dir() else [given])
    ]
    if len(files) < 2:
        raise InputError("an average needs two weights files or more")
    # After the arguments: torch takes seconds to import.
    from tools.io.averaging import average_files

    average_files(files, arguments.out)
    console.out(f"average of {len(files)} files: {arguments.out}")
    return 0


if __name__ == "__main__":
    run(main)
