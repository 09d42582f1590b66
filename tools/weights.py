"""Lists the published weights that have a name, or fetches some; a name may stand wherever a weights file may.

python -m tools.weights
python -m tools.weights get torchvision/ssdlite320_mobilenet_v3_large deeplab/lraspp_large_cityscapes
python -m tools.weights get timm/mobilenetv4_conv_small.e2400_r224_in1k --to carried

With --to the files are also copied into a folder, a sub-folder for each name, to be carried to a machine without a
network; there the file's path stands for the name.
"""

import argparse
import shutil
from pathlib import Path

from backbone.errors import InputError
from backbone.weights import names
from tools.io.console import console, run, table
from tools.io.files import replace_file

COLUMNS = ["name", "network", "data", "publisher's score", "MB", "licence", "here"]


def listed() -> list[list[str]]:
    """Rows of text, a row for each name; `COLUMNS` says of what."""
    return [
        [
            published.name,
            published.network,
            published.data,
            published.score,
            "" if published.megabytes is None else f"{published.megabytes:.1f}",
            published.licence,
            _here(published.name),
        ]
        for published in names.PUBLISHED
    ]


def _here(name: str) -> str:
    try:
        return "no" if names.find(name) is None else "yes"
    except InputError:  # the package that would know is not installed
        return "needs an extra"


def get(name: str, folder: Path | None) -> Path:
    """Fetches what is not here yet and returns its path, with a folder that of the copy in it.

    Raises:
        InputError: no such name, or it cannot be fetched or copied.
    """
    names.find(name)  # a path that is no name is refused here
    path = Path(names.resolve(name))
    if folder is None:
        return path
    place = folder / name
    files = [path]
    if path.suffix == ".index":
        files = sorted(path.parent.iterdir())
    elif (config := path.with_name("config.json")).is_file():
        files.append(config)
    for file in files:
        replace_file(place / file.name, lambda temporary, file=file: shutil.copyfile(file, temporary))
    terms = f"{name}\n{names.terms(name, path)}\n"
    replace_file(place / "TERMS.txt", lambda temporary: temporary.write_text(terms, encoding="utf-8"))
    return place / path.name


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="get")
    command = commands.add_parser("get", help="fetch weights that are not here yet, and print their paths")
    command.add_argument("names", nargs="+", metavar="NAME", help="as the list has them, or of their forms")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="also copy the files into this folder")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        console.print(table("published weights by name", COLUMNS, listed()))
        for terms in names.TERMS.values():
            console.print(terms, soft_wrap=True)
        console.print(
            "Also: torchvision/NETWORK.TAG, timm/NETWORK.TAG[@REVISION], hub/OWNER/REPOSITORY[@REVISION]",
            markup=False,
            soft_wrap=True,
        )
        return 0
    for name in arguments.names:
        path = get(name, arguments.to)
        console.print(f"{name}: {path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
