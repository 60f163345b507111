"""Errors of the language-model part that a user can mend."""


class GenerateError(Exception):
    """A user's mistake, such as a directory that holds no model: says what, where, what to do."""
