"""The packages that a format needs: whether they are there, and their versions."""

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

from backbone.errors import InputError


def require(what: str, modules: Sequence[str], cure: str) -> None:
    """Checks, without importing them, that modules are installed.

    Arguments:
        what: needs them, for the message.
        cure: what to do where one is missing.

    Raises:
        InputError: one is missing.
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise InputError(f"{what}: needs {', '.join(missing)}, not installed; {cure}")


def versions(distributions: Sequence[str]) -> dict[str, str]:
    """The installed version of each distribution."""
    return {name: metadata.version(name) for name in distributions}
