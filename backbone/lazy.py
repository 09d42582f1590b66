"""Public names of a package that are imported when first used, so that importing the package costs no torch."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562).

    Arguments:
        package: the package's `__name__`.
        modules: from each public name to the module, relative to the package, that defines it.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)  # found at once the next time
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules})
