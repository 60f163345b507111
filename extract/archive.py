"""Numpy's own files (`.npy`, and `.npz` archives of them), with an eye on what their headers claim.

Arrays of objects are refused (they are pickles), and so is an array whose header claims more than
the file holds or the machine has.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from extract.errors import ExtractError

_DAMAGE = (  # what reading a damaged archive raises
    OSError, ValueError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_KEPT = 3  # arrays in memory: one modality's splits
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Archive:
    """An `.npz` file: what its headers say, and its arrays when they are asked for."""

    def __init__(
        self, path: Path, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, np.dtype[Any]]
    ) -> None:
        self.path, self.shapes, self.dtypes = path, shapes, dtypes
        self._recent: dict[str, NDArray[Any]] = {}

    def load(self, name: str) -> NDArray[Any]:
        """Return one array; the last few stay in memory.

        Raises:
            ExtractError: there is none of that name, or it is damaged.
        """
        if name not in self.shapes:
            raise ExtractError(
                f"{self.path} has no array {name!r}; it has {', '.join(sorted(self.shapes)[:12])}"
            )
        if name not in self._recent:
            while len(self._recent) >= _KEPT:
                self._recent.pop(next(iter(self._recent)))
            try:
                with np.load(self.path, allow_pickle=False) as archive:
                    self._recent[name] = archive[name]
            except _DAMAGE as error:
                raise ExtractError(
                    f"{self.path}: array {name!r} is damaged: {_reason(error)}"
                ) from None
        return self._recent[name]

    def texts(self, name: str) -> list[str]:
        """Return an array as text: numbers are written as Python writes them."""
        return [str(value) for value in self.load(name).reshape(-1).tolist()]


def open_archive(path: Path) -> Archive:
    """Read the headers of an archive.

    Raises:
        ExtractError: it is damaged, or an array is refused.
    """
    shapes, dtypes = {}, {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name != member.filename:
                    with archive.open(member) as stream:
                        shapes[name], dtypes[name] = _read_header(
                            stream, member.file_size, f"{path}: array {name!r}"
                        )
    except FileNotFoundError:
        raise ExtractError(f"{path}: no such file") from None
    except _DAMAGE as error:
        raise ExtractError(f"{path} is no readable .npz archive: {_reason(error)}") from None
    return Archive(path, shapes, dtypes)


def npy_header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the type of the array in a `.npy` file.

    Raises:
        ExtractError: the file is damaged, or the array is refused.
        OSError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return _read_header(stream, path.stat().st_size, path.name)
    except (ValueError, EOFError) as error:
        raise ExtractError(f"{path.name} is no readable .npy file: {_reason(error)}") from None


def load_npy(path: Path) -> NDArray[Any]:
    """Return the array in a `.npy` file.

    Raises:
        ExtractError: the file is damaged, or the array is refused.
        OSError: the file cannot be read.
    """
    npy_header(path)
    return np.asarray(np.load(path, allow_pickle=False))


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _read_header(stream: IO[bytes], size: int, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read a header and hold it against the size of its file."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ExtractError(f"{where} holds records; refused")
    shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ExtractError(f"{where} holds Python objects, which are pickles; refused")
    claimed, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != held:
        raise ExtractError(f"{where} claims {claimed:,} bytes of values, but holds {held:,}")
    available = psutil.virtual_memory().available
    if claimed > available:
        raise ExtractError(
            f"{where} takes {claimed / 2**30:.1f} GiB, "
            f"and this machine has {available / 2**30:.1f} GiB free"
        )
    return shape, dtype
