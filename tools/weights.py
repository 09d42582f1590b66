"""Lists the published weights that have a name, or fetches some; a name may stand wherever a weights file may.

python -m tools.weights
python -m tools.weights get torchvision/ssdlite320_mobilenet_v3_large deeplab/lraspp_large_cityscapes
python -m tools.weights get timm/mobilenetv4_conv_small.e2400_r224_in1k --to carried

With --to the files are also copied into a folder, a sub-folder for each name, to be carried to a machine without a
network; there the file's path stands for the name.
"""

import shutil
from pathlib import Path

from backbone.errors import InputError
from backbone.weights import names
from tools.io.console import command_parser, console, run
from tools.io.files import replace_file

NAME_WIDTH = 50
"""Of the list's column of names, in characters; with what stands behind it a row fits into a terminal of 80."""


def listed() -> list[str]:
    """The list: two lines for each name, of which the second says what the weights are."""
    lines = []
    for published in names.PUBLISHED:
        size = "" if published.megabytes is None else f"{published.megabytes:.1f} MB"
        lines.append(f"{published.name:<{NAME_WIDTH}} {size:>8}  {_here(published.name)}")
        score = f"{published.data} {published.score}".strip()
        lines.append(f"    {published.network}; {score}; {published.licence}")
    return lines


def _here(name: str) -> str:
    try:
        return "to be fetched" if names.find(name) is None else "here"
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
    terms = f"{name}\n{names.terms(name)}\n"
    replace_file(place / "TERMS.txt", lambda temporary: temporary.write_text(terms, encoding="utf-8"))
    return place / path.name


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("weights", __doc__)
    commands = parser.add_subparsers(dest="command", metavar="get")
    command = commands.add_parser("get", help="fetch weights that are not here yet, and print their paths")
    command.add_argument("names", nargs="+", metavar="NAME", help="as the list has them, or of their forms")
    command.add_argument("--to", type=Path, metavar="FOLDER", help="also copy the files into this folder")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        also = "Also: torchvision/NETWORK.TAG, timm/NETWORK.TAG[@REVISION], hub/OWNER/REPOSITORY[@REVISION]"
        for line in [*listed(), "", *names.TERMS.values(), also]:
            console.print(line, soft_wrap=True)
        return 0
    for name in arguments.names:
        path = get(name, arguments.to)
        console.print(f"{name}: {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
