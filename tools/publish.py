"""Makes a folder of a trained model that Hugging Face's hub shows well; the upload is a command of your own.

    python -m tools.publish --weights runs/large/best.safetensors published --licence cc-by-nc-4.0
    python -m tools.publish --weights runs/large/best.safetensors published --name jane/streets --image photo.jpg
    python -m tools.publish --weights best.safetensors published --data "Our garden" --data-terms "Ours; CC BY 4.0."

The folder has model.safetensors; README.md, a model card with its metadata: task, data and their terms, metrics, how to
load the model; config.json, the description; config.yaml of the run where it lies beside the weights, absolute paths
cut to their last name; and with --image the result drawn into that image. Metrics are those of the metrics.json beside
the weights, or of --metrics; those of other weights are refused. Nothing is uploaded: the command for that is printed.
tools.predict.load reads the folder, and once it is uploaded, hub/OWNER/REPOSITORY stands wherever weights may.
"""

import argparse
import re
import shlex
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, run

LICENCE = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
"""The form of the hub's identifiers of licences."""
NAME = re.compile(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*")
"""What the hub allows as an account's or a repository's name."""
LONGEST_NAME = 96
SIGN = b"\nlibrary_name: taproot\n"
"""What every card of ours has in it: without it a folder is somebody's own, whose files are not ours to replace."""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; whatever can be refused without reading files is."""
    parser = command_parser("publish", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument("--weights", required=True, type=Path, help="best.safetensors of a run")
    parser.add_argument("--name", help="OWNER/REPOSITORY on the hub; default: made of head, network and data")
    parser.add_argument("--licence", help="of the weights, as the hub calls it: apache-2.0, cc-by-nc-4.0, other, …")
    parser.add_argument("--data", help="name of the data trained and scored on; default: its folder in config.yaml")
    parser.add_argument("--data-terms", metavar="TEXT", help="default: those of Cityscapes and ImageNet are known")
    parser.add_argument("--metrics", type=Path, metavar="JSON", help="default: metrics.json beside the weights")
    parser.add_argument(
        "--report", type=Path, metavar="HTML", help="report.html to add; it shows images of the data and names folders"
    )
    parser.add_argument("--image", type=Path, help="an image to draw the result into, for the card")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call put into OUT")
    arguments = parser.parse_args(argv)
    if arguments.name is not None:
        parts = arguments.name.split("/")
        if len(arguments.name) > LONGEST_NAME or len(parts) > 2 or not all(map(NAME.fullmatch, parts)):
            raise InputError(
                f"--name {arguments.name}: must be OWNER/REPOSITORY or REPOSITORY, of letters, digits, _ and single - "
                f"and . between them, up to {LONGEST_NAME} characters"
            )
    if arguments.licence is not None and not LICENCE.fullmatch(arguments.licence):
        raise InputError(f"--licence {arguments.licence}: give the hub's identifier, as apache-2.0, mit or other")
    for option in ("data", "data_terms"):
        text = getattr(arguments, option)
        if text is not None and not text.strip():
            raise InputError(f"--{option.replace('_', '-')}: is empty; leave it out or say it")
    check_out(arguments)
    return arguments


def check_out(arguments: argparse.Namespace) -> None:
    """Refuses a folder that holds something, or that something is read from."""
    out = arguments.out
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    for path in (arguments.weights, arguments.metrics, arguments.report, arguments.image):
        if path is not None and out.resolve() in path.resolve().parents and path.exists():
            raise InputError(f"{out}: has {path} in it, which is read; give another folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not arguments.overwrite:
        raise InputError(f"{out}: is not empty; give another folder, or --overwrite")
    card = out / "README.md"
    if not card.is_file() or SIGN not in card.read_bytes():
        raise InputError(f"{out}: holds files that are not of this command, which --overwrite would lose; give another")


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # After the arguments: torch takes seconds to import.
    from tools.publishing.folder import OWNER, publish

    out = arguments.out
    card = publish(
        arguments.weights,
        out,
        name=arguments.name,
        licence=arguments.licence,
        data=arguments.data,
        terms=arguments.data_terms,
        metrics=arguments.metrics,
        report=arguments.report,
        image=arguments.image,
    )
    console.print(f"{out}: README.md, {', '.join(card.files)}", soft_wrap=True)
    missing = {
        "the licence (--licence)": card.licence,
        "the data (--data)": card.data,
        "the data's terms (--data-terms)": card.terms,
        "metrics (evaluate first, or --metrics)": card.scored,
    }
    if lacking := [what for what, value in missing.items() if value is None]:
        console.print(f"the card lacks {', '.join(lacking)}", soft_wrap=True)
    if card.name.startswith(f"{OWNER}/"):
        text = f"{out / 'README.md'} says {OWNER} for your account; --name OWNER/REPOSITORY fills it in"
        console.print(text, soft_wrap=True)
    console.print("Read the card, then upload the folder yourself:", soft_wrap=True)
    console.print(f"hf upload {card.name} {shlex.quote(str(out))}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
