"""Archives of numpy arrays (`.npz`), read with an eye on what their headers claim.

Arrays of objects are refused (they are pickles), and so is an array whose header claims more than
the archive holds or the machine has.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from extract.errors import ExtractError

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
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ExtractError(f"{self.path}: array {name!r} is damaged: {error}") from None
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
                if name == member.filename:
                    continue
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    if version not in _HEADERS:
                        raise ExtractError(f"{path}: array {name!r} holds records; refused")
                    shape, _, dtype = _HEADERS[version](stream)
                    begin = stream.tell()
                _check_header(f"{path}: array {name!r}", shape, dtype, member.file_size - begin)
                shapes[name], dtypes[name] = shape, dtype
    except FileNotFoundError:
        raise ExtractError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ExtractError(f"{path} is no readable .npz archive: {reason}") from None
    return Archive(path, shapes, dtypes)


def _check_header(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], held: int) -> None:
    if dtype.hasobject:
        raise ExtractError(f"{where} holds Python objects, which are pickles; refused")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != held:
        raise ExtractError(f"{where} claims {claimed:,} bytes, but the archive has {held:,}")
    available = psutil.virtual_memory().available
    if claimed > available:
        raise ExtractError(
            f"{where} takes {claimed / 2**30:.1f} GiB, "
            f"and this machine has {available / 2**30:.1f} GiB free"
        )
