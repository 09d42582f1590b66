"""The experiments that come with the package: `configs/` beside the code, in a checkout and where pip installed it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages and `configs/`."""


def find_config(path: Path) -> Path:
    """The path as given, or the shipped config of that name where there is no such file.

    So `configs/demo/seg.yaml` means the same from any folder; a file of one's own of that name comes first.
    """
    shipped = ROOT / path
    is_shipped = path.parts[:1] == ("configs",) and not path.exists() and shipped.is_file()
    return shipped if is_shipped else path
