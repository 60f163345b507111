"""Say what a feature pickle holds, in a process of its own with limits on memory and time.

Runs as `python -m extract.importers.pickle_scan FILE SCRATCH SECONDS MEGABYTES` and prints JSON: a
dict is `{"dict": [[key, value], ...]}`, an array `{"array": [file, offset, dtype, shape, order]}`,
where file 0 is the pickle and 1 the scratch file. That one is for arrays of protocol 2, whose bytes
are written as text. See `pickle_machine` for why nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import mmap
import resource
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

from extract.importers.pickle_machine import Array, Bytes, Dtype, LongText, Machine, RefusedError

_MAX_VALUES = 2_000_000
"""A few lists that hold each other print as endless text; no feature file holds this many."""


class _Printer:
    """Turns the value into what JSON can hold, counting as it goes."""

    def __init__(self) -> None:
        self._count = 0

    def plain(self, value: Any) -> Any:
        self._count += 1
        if self._count > _MAX_VALUES:
            raise RefusedError(f"holds more than {_MAX_VALUES:,} values outside arrays")
        if isinstance(value, dict):
            return {"dict": [[key, self.plain(each)] for key, each in value.items()]}
        if isinstance(value, list | tuple):
            return [self.plain(each) for each in value]
        if isinstance(value, Array):
            return self._array(value)
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, LongText):
            raise RefusedError(f"holds a text of {value.length:,} bytes")
        raise RefusedError("holds bytes or a type where a value is expected")

    def _array(self, array: Array) -> Any:
        dtype = array.dtype
        if (
            not isinstance(dtype, Dtype)
            or dtype.order not in ("<", ">", "|", "=")
            or array.order not in ("C", "F")
        ):
            raise RefusedError("holds an array in a form that is not read")
        if dtype.code[0] == "O":
            if not isinstance(array.content, list) or not all(
                isinstance(each, str) for each in array.content
            ):
                raise RefusedError("holds an array of objects that are not all text")
            return self.plain(array.content)
        if not isinstance(array.content, Bytes) or not isinstance(array.shape, tuple):
            raise RefusedError("holds an array without its values")
        if not all(type(size) is int and size >= 0 for size in array.shape):
            raise RefusedError(f"holds an array of shape {array.shape!r:.60}")
        if math.prod(array.shape) * dtype.itemsize != array.content.length:
            raise RefusedError(f"holds an array whose bytes do not fit its shape {array.shape}")
        place = array.content
        return {
            "array": [
                place.file, place.offset, dtype.order + dtype.code, array.shape, array.order
            ]
        }  # fmt: skip


def scan(data: mmap.mmap | bytes, scratch: BinaryIO) -> Any:
    """Return what a pickle holds, as JSON values.

    Raises:
        RefusedError: it is not made of arrays and plain containers, or is damaged.
    """
    try:
        return _Printer().plain(Machine(data, scratch).run())
    except RecursionError:
        raise RefusedError("is nested too deeply") from None
    except MemoryError:
        raise RefusedError("needs more memory than a list of its arrays can need") from None
    except (LookupError, ValueError, TypeError, AttributeError, OSError, struct.error):
        raise RefusedError("is no pickle, or a damaged one") from None


def _limit(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (wanted, wanted))


def main(path: Path, scratch: Path, seconds: int, megabytes: int) -> int:
    """Scan one file within limits and print what it holds; return the exit code."""
    with path.open("rb") as stream, scratch.open("w+b") as bytes_as_text:
        size = stream.seek(0, 2)
        if not size:
            print("is empty", file=sys.stderr)
            return 1
        _limit(resource.RLIMIT_AS, size + (megabytes << 20))  # the file is mapped, not read
        _limit(resource.RLIMIT_FSIZE, size)
        _limit(resource.RLIMIT_CPU, seconds)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                found = json.dumps(scan(data, bytes_as_text))
            except (RefusedError, MemoryError) as error:
                print(error or "needs too much memory", file=sys.stderr)
                return 1
    sys.stdout.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
