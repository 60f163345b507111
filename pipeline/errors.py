"""Errors that end a command with exit code 1 and one plain sentence."""

from extract.errors import ExtractError
from generate.errors import GenerateError


class PipelineError(Exception):
    """A user's mistake in a manifest, a flag or a path: says what, where, and what to do."""


class DivergenceError(PipelineError):
    """Training came to losses, gradients or scores that are not finite, and was ended."""


USER_ERRORS: tuple[type[Exception], ...] = (PipelineError, ExtractError, GenerateError)
