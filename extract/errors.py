"""Errors of stage one that a user can mend."""


class ExtractError(Exception):
    """A user's mistake or a damaged input: the message says what, where, and what to do."""
