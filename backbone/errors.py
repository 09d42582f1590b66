"""The one exception for bad input: its message is a line for the user, and the tools turn it into exit code 2."""


class InputError(ValueError):
    """A file, key or value from outside breaks a rule. The message names it, the rule and the cure, in one line."""
