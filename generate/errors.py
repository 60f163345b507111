"""Errors of the language-model part that a user can mend."""


class GenerateError(Exception):
    """A user's mistake, such as a directory that holds no model: says what, where, what to do."""


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, for a message of ours to quote."""
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__
