"""The journal of a folder of predictions: a line for each image that is done, written after its files."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tools.io.files import replace_file, unwritable

NAME = "journal.jsonl"


def as_line(record: dict[str, Any]) -> bytes:
    """A record as the journal has it."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """The records by their keys, the last of each; none where there is no journal.

    A line without its end, by a killed process, does not count.

    Raises:
        InputError: a line is no record.
    """
    if not path.is_file():
        return {}
    records = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
            records[record["key"]] = record
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: is damaged ({error}); delete it, and all is predicted again") from error
    return records


def rewrite(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Puts a journal of these records in the old one's place."""
    content = b"".join(map(as_line, records))
    replace_file(path, lambda part: part.write_bytes(content))


class Journal:
    """Appends records; opening it cuts off a line that a killed process left without its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by `close`
            self._file.seek(0)
            content = self._file.read()
            self._file.truncate(content.rfind(b"\n") + 1)
        except OSError as error:
            raise unwritable(path, error) from error

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record, whose files must have been written.

        Raises:
            InputError: the disk is full or broken.
        """
        try:
            self._file.write(as_line(record))
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Closes it, on the disk for good."""
        os.fsync(self._file.fileno())
        self._file.close()
