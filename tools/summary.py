"""Prints parameters and MACs of every architecture beside its paper's, one network's taps, or a joint network's parts.

python -m tools.summary
python -m tools.summary mobilenet_v3_large --width 0.75
python -m tools.summary mobilenet_v3_small --tail segmentation --output-stride 16
python -m tools.summary "cn_k3_s2_c16_nhs ds_k3_s2_c16 ir_r2_k3_s2_e4_c24 ir_r3_k5_s2_e6_c40_se0.25_nhs"
python -m tools.summary mobilenet_v3_large --heads lraspp pico96 --size 512 1024
python -m tools.summary runs/both/best.safetensors

Of a joint network, by --heads or by its weights file, the parts and the total stand beside one model for each head.
"""

import argparse
import math
from pathlib import Path

import det.options
import seg.options
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
    parser.add_argument(
        "name",
        nargs="?",
        help="an architecture, one in strings, or a joint network's file; without it all are compared",
    )
    parser.add_argument("--width", type=float, help="multiplies the channels (default 1; without a name, the papers')")
    parser.add_argument(
        "--heads",
        nargs="+",
        choices=(*seg.options.HEADS, *det.options.HEADS),
        help="of a joint network",
        metavar="HEAD",
    )
    parser.add_argument("--tail", help="full (default), detection or segmentation (MobileNetV3); of --heads what fits")
    parser.add_argument(
        "--output-stride",
        type=int,
        choices=(8, 16, 32),
        help="of the last feature map (default 32; of --heads what fits)",
    )
    parser.add_argument("--padding", choices=PADDINGS, help="symmetric (default), or same as TensorFlow pads")
    parser.add_argument(
        "--size",
        nargs="+",
        type=int,
        metavar="PIXELS",
        help="side of the square input whose MACs are counted (default 224); of a joint network also height and width "
        "(default: what its detector takes)",
    )
    arguments = parser.parse_args(argv)
    name, heads = arguments.name, arguments.heads
    if arguments.width is not None and not 0 < arguments.width < math.inf:
        raise InputError(f"--width {arguments.width} must be above 0 and finite")
    joint = heads is not None or is_file(name)
    if arguments.size is not None:
        shown = " ".join(map(str, arguments.size))
        if min(arguments.size) < 32:
            raise InputError(f"--size {shown} must be at least 32, the stride of the networks")
        if len(arguments.size) > 1 + joint:
            raise InputError(f"--size {shown}: give one number, or height and width of a joint network")
    if is_file(name):
        for option in ("width", "heads", "tail", "output_stride", "padding"):
            if getattr(arguments, option) is not None:
                raise InputError(f"--{option.replace('_', '-')}: stands in the file {name}; leave it out")
        return arguments
    if heads is not None and len({*heads}) < len(heads):
        raise InputError(f"--heads {' '.join(heads)}: a head stands twice; give different ones")
    if heads is not None and name is None:
        raise InputError("--heads: needs the name of the backbone before it")
    if name is not None:
        in_strings = "_k" in name  # every string gives its kernel, no name does
        if not in_strings and name not in ARCHITECTURES:
            raise InputError(f"architecture {name!r} unknown; valid: {', '.join(sorted(ARCHITECTURES))}")
        valid = tails(parse(name) if in_strings else ARCHITECTURES[name])
        if arguments.tail not in (None, *valid):
            raise InputError(f"--tail {arguments.tail!r} unknown; valid: {', '.join(valid)}")
    return arguments


def is_file(name: str | None) -> bool:
    """Whether a weights file is meant."""
    return name is not None and name.endswith(".safetensors")


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # Imported only now, so that --help and refusals come at once.
    from tools.network_summary.counts import comparison
    from tools.network_summary.taps import describe

    name, size = arguments.name, arguments.size
    width = 1.0 if arguments.width is None else arguments.width
    padding = arguments.padding or "symmetric"
    if name is None:
        columns = ["network", "width", "size", "M params", "paper", "M MACs", "paper", "%", "source (arXiv)"]
        console.print(table("parameters and multiply-adds of the classifiers", columns, comparison(arguments.width)))
    elif arguments.heads is not None or is_file(name):
        from tools.network_summary.joint import describe_joint, make_outline, read_outline

        if arguments.heads is None:
            network = read_outline(Path(name))
        else:
            stride = arguments.output_stride
            network = make_outline(
                name, arguments.heads, width=width, tail=arguments.tail, output_stride=stride, padding=padding
            )
        describe_joint(network, None if size is None else (size[0], size[-1]))
    else:
        describe(
            name,
            width=width,
            tail=arguments.tail or "full",
            output_stride=arguments.output_stride or 32,
            padding=padding,
            size=224 if size is None else size[0],
        )
    return 0


if __name__ == "__main__":
    run(main)
