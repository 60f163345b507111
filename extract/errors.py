"""Errors of stage one that a user can mend, and the one that any stage may meet."""

_OUT_OF_MEMORY = (  # CUDA, cuBLAS, torch on a CPU, numpy
    "out of memory",
    "alloc_failed",
    "can't allocate memory",
    "unable to allocate",
)


class ExtractError(Exception):
    """A user's mistake or a damaged input: the message says what, where, and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device's memory, or the machine's, did not suffice; needs no torch."""
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in said for part in _OUT_OF_MEMORY)
