"""Prints parameters and MACs of every architecture beside its paper's, or the taps of one network.

python -m tools.summary
python -m tools.summary mobilenet_v3_large --width 0.75
python -m tools.summary mobilenet_v3_small --tail segmentation --output-stride 16
python -m tools.summary "cn_k3_s2_c16_nhs ds_k3_s2_c16 ir_r2_k3_s2_e4_c24 ir_r3_k5_s2_e6_c40_se0.25_nhs"
"""

import argparse
import math

from backbone.architectures.definitions import parse
from backbone.architectures.plan import ARCHITECTURES, tails
from backbone.errors import InputError
from backbone.options import PADDINGS
from tools.io.console import command_parser, console, run, table


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked as far as it can be without torch.

    Raises:
        InputError: an unknown network or tail, or a number out of range.
    """
    parser = command_parser("summary", __doc__)
    parser.add_argument("name", nargs="?", help="an architecture, or one in strings; without it all are compared")
    parser.add_argument("--width", type=float, help="multiplies the channels (default 1; without a name, the papers')")
    parser.add_argument("--tail", default="full", help="full, detection or segmentation (MobileNetV3)")
    parser.add_argument(
        "--output-stride", type=int, default=32, choices=(8, 16, 32), help="of the last feature map (default 32)"
    )
    parser.add_argument(
        "--padding", default="symmetric", choices=PADDINGS, help="symmetric (default), or same as TensorFlow pads"
    )
    parser.add_argument(
        "--size", type=int, default=224, help="side of the square input whose MACs are counted (default 224)"
    )
    arguments = parser.parse_args(argv)
    if arguments.width is not None and not 0 < arguments.width < math.inf:
        raise InputError(f"--width {arguments.width} must be above 0 and finite")
    if arguments.size < 32:
        raise InputError(f"--size {arguments.size} must be at least 32, the stride of the networks")
    name = arguments.name
    if name is not None:
        in_strings = "_k" in name  # every string gives its kernel, no name does
        if not in_strings and name not in ARCHITECTURES:
            raise InputError(f"architecture {name!r} unknown; valid: {', '.join(sorted(ARCHITECTURES))}")
        valid = tails(parse(name) if in_strings else ARCHITECTURES[name])
        if arguments.tail not in valid:
            raise InputError(f"--tail {arguments.tail!r} unknown; valid: {', '.join(valid)}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # Imported only now, so that --help and refusals come at once.
    from tools.network_summary.counts import comparison
    from tools.network_summary.taps import describe

    if arguments.name is None:
        columns = ["network", "width", "size", "M params", "paper", "M MACs", "paper", "%", "source (arXiv)"]
        console.print(table("parameters and multiply-adds of the classifiers", columns, comparison(arguments.width)))
    else:
        describe(
            arguments.name,
            width=1.0 if arguments.width is None else arguments.width,
            tail=arguments.tail,
            output_stride=arguments.output_stride,
            padding=arguments.padding,
            size=arguments.size,
        )
    return 0


if __name__ == "__main__":
    run(main)
