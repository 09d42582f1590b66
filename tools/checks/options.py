"""Command-line options that the checks of data sets share; free of torch."""

import argparse
from pathlib import Path

from tools.io.console import num_workers


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds --out, --leave-out and --workers."""
    parser.add_argument("--out", type=Path, metavar="PNG", help="image to write; default: check/samples.png in root")
    parser.add_argument(
        "--leave-out", type=Path, metavar="FILE", help="list of unusable images to write, for data.leave_out"
    )
    parser.add_argument("--workers", type=num_workers, default=2, help="decoding processes; default: 2")
