"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from backbone import InputError
from tools.io import files


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(part: Path) -> None:
        part.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(InputError, match=r"cannot be written \(disk full"):
        files.replace_file(path, write)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_for_results_that_cannot_be_made_is_named_before_anything_is_computed(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="taken/writable: cannot be written"):
        files.open_folder(tmp_path / "taken")
    files.open_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
