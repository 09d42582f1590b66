"""The terminal: bad input becomes one line and exit code 2; progress bars and tables."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from backbone.errors import InputError

console = Console(highlight=False, markup=False, emoji=False)
"""Prints text as it is: names of classes, files and splits may hold [brackets] and :colons:."""
BAD_INPUT = 2


def run(main: Callable[[], int | None]) -> None:
    """Runs a tool's main function and ends the process with its exit code."""
    try:
        code = main()
    except InputError as error:
        # A loader process's error arrives with its traceback in the text; the message proper is the last line.
        message = str(error).strip().splitlines()[-1].removeprefix("backbone.errors.InputError: ")
        print(f"error: {message}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)


def command_parser(command: str, description: str | None) -> ArgumentParser:
    """The parser of `python -m tools.COMMAND`; the description is shown as it is laid out."""
    return ArgumentParser(
        prog=f"python -m tools.{command}", description=description, formatter_class=RawDescriptionHelpFormatter
    )


def num_workers(text: str) -> int:
    """A number of processes, for argparse, which names the option and ends with exit code 2 if it cannot be."""
    if not text.isdecimal() or int(text) > 256:
        raise ArgumentTypeError(f"{text} must be a number from 0 to 256")
    return int(text)


def progress(*extra: str, to_stderr: bool = False) -> Progress:
    """A progress bar with counts, elapsed and remaining time.

    Arguments:
        extra: templates over a task's fields.
        to_stderr: show it there, as standard output carries data.
    """
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    out = Console(stderr=True, highlight=False, markup=False, emoji=False) if to_stderr else console
    columns += [TextColumn(template, markup=False) for template in extra]
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=out)


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table whose first column is text, aligned left, and whose others are numbers; `console` prints it."""
    drawn = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        drawn.add_column(column, justify="left" if position == 0 else "right", no_wrap=position == 0)
    for row in rows:
        drawn.add_row(*row)
    return drawn
