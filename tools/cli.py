"""The command `taproot`, which `pip install` makes: `taproot train-seg …` is `python -m tools.train_seg …`."""

import ast
import difflib
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import run

GROUPS = {
    "train": ("train_seg", "train_det", "train_joint", "train_backbone", "sweep"),
    "run a model": ("predict", "video", "browser", "export"),
    "evaluate": ("eval_seg", "eval_det", "eval_joint", "eval_backbone", "eval_panoptic", "eval_tracks"),
    "prepare data": ("check_masks", "check_coco", "check_augment", "convert_annotations", "prepare_masks"),
    "weights and networks": ("weights", "convert_weights", "average", "split", "publish", "summary"),
    "try and measure": ("doctor", "demo", "make_demo_data", "benchmark"),
}
"""The modules of `tools` that are commands, by what they are for; a test keeps the list complete."""
FORMER_NAMES = ("check_cityscapes", "prepare_cityscapes")
"""Commands that still work and are not listed."""


def phrase(module: str) -> str:
    """The first line of a command's docstring, read without importing the command."""
    source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return docstring.partition("\n")[0]


def overview() -> str:
    """What `taproot --help` prints: every command with a phrase, grouped by purpose."""
    commands = {module: module.replace("_", "-") for modules in GROUPS.values() for module in modules}
    indent = max(map(len, commands.values())) + 4
    width = min(shutil.get_terminal_size().columns, 120)
    lines = ["usage: taproot COMMAND ...", "       taproot COMMAND --help", "       taproot --version"]
    for group, modules in GROUPS.items():
        lines += ["", group]
        for module in modules:
            first = f"  {commands[module]}".ljust(indent)
            lines += textwrap.wrap(phrase(module), width, initial_indent=first, subsequent_indent=" " * indent)
    return "\n".join(lines)


def find_command(name: str) -> str:
    """The module of a command as the user wrote it, with hyphens or underscores.

    Raises:
        InputError: there is none of that name; the message suggests the nearest one.
    """
    modules = [module for group in GROUPS.values() for module in group] + list(FORMER_NAMES)
    module = name.replace("-", "_")
    if module in modules:
        return module
    close = difflib.get_close_matches(module, modules, n=1)
    hint = f"did you mean {close[0].replace('_', '-')}?" if close else "taproot --help lists all"
    raise InputError(f"taproot {name}: no such command; {hint}")


def version() -> str:
    """The version that pip installed.

    Raises:
        InputError: this is a checkout that pip does not know.
    """
    try:
        return metadata.version("taproot")
    except metadata.PackageNotFoundError:
        raise InputError("taproot is not installed, so it has no version; run pip install -e .") from None


def dispatch(arguments: Sequence[str]) -> int | None:
    """Runs the command line after `taproot` and returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"taproot {version()}")
        return 0
    if arguments[0].startswith("-"):
        raise InputError(f"taproot {arguments[0]}: unknown option; the command comes first, see taproot --help")
    command = import_module(f"tools.{find_command(arguments[0])}")
    return command.main(list(arguments[1:]))


def main() -> None:
    """The entry point of the installed command."""
    run(lambda: dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
