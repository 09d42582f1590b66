"""The one exception for bad input: its message is a line for the user, and the tools turn it into exit code 2."""

from collections.abc import Sequence


class InputError(ValueError):
    """A file, key or value from outside breaks a rule. The message names it, the rule and the cure, in one line."""


def check_choice(what: str, value: object, valid: Sequence[object]) -> None:
    """Raises an InputError that lists the valid values where `value` is not one of them; None is never listed."""
    if value not in valid:
        listed = ", ".join(str(choice) for choice in valid if choice is not None)
        raise InputError(f"{what} {value!r} unknown; valid: {listed}")
