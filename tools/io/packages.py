"""What has to be installed besides the plain installation: whether it is there, and its versions; free of torch."""

from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec

from backbone.errors import InputError


def missing(modules: Sequence[str]) -> list[str]:
    """Those of the modules that are not installed; none is imported."""
    return [module for module in modules if find_spec(module) is None]


def require(what: str, modules: Sequence[str], cure: str) -> None:
    """Checks that modules are installed.

    Arguments:
        what: needs them, for the message.
        cure: what to do where one is missing.

    Raises:
        InputError: one is missing.
    """
    if absent := missing(modules):
        raise InputError(f"{what}: needs {', '.join(absent)}, not installed; {cure}")


def require_compiler(what: str, otherwise: str) -> None:
    """Checks that torch's compiler finds the C++ compiler that it needs on a CPU.

    Arguments:
        what: needs it, for the message.
        otherwise: what to do without one.

    Raises:
        InputError: there is none.
    """
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise InputError(f"{what}: needs a C++ compiler; install g++, or {otherwise}") from error


def versions(distributions: Sequence[str]) -> dict[str, str]:
    """The installed version of each distribution."""
    return {name: metadata.version(name) for name in distributions}
