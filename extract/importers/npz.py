"""Archives of numpy arrays: `{split}_{modality}` beside `{split}_id`, or one array an utterance.

Arrays of objects are refused (they are pickles), and so is an array whose header claims more than
the archive holds or the machine has.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.importers.base import (
    MODALITIES,
    MODALITY_ALIASES,
    SPLIT_WORDS,
    Part,
    listed_part,
    padded_part,
    split_of_file,
)

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


def npz_parts(path: Path, split: str | None, modality: str | None) -> list[Part]:
    """Return the parts of an archive.

    Args:
        path: The archive.
        split: Which split it is, where its arrays' names do not say so.
        modality: Which modality it is, where its arrays' names do not say so.

    Raises:
        ExtractError: the archive is refused, or has another form.
    """
    archive = open_archive(path)
    prefixes = [name[: -len("id")] for name in archive.shapes if name.split("_")[-1] == "id"]
    if prefixes:
        return [part for prefix in prefixes for part in _group(archive, prefix, split)]
    if modality is None:
        raise ExtractError(
            f"{path} has no '{{split}}_id' array beside '{{split}}_audio' and the like; "
            "if each of its arrays is one utterance, give --modality"
        )
    names = sorted(archive.shapes)
    arrays = [_Lazy(archive, name) for name in names]
    known = split or split_of_file(path)
    return [listed_part(path.name, modality, known, arrays, names=names)]


@dataclass(frozen=True)
class _Lazy:
    """One array of an archive, read when it is looked into."""

    archive: Archive
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.archive.shapes[self.name]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.archive.dtypes[self.name]

    def __getitem__(self, index: int | EllipsisType) -> NDArray[Any]:
        return np.asarray(self.archive.load(self.name)[index])


def _group(archive: Archive, prefix: str, split: str | None) -> list[Part]:
    """Return the parts of the arrays whose names begin with `prefix`, such as `train_`."""
    word = prefix.rstrip("_")
    known = SPLIT_WORDS.get(word, split or split_of_file(archive.path))
    names = archive.texts(f"{prefix}id")
    parts = []
    for key in (*MODALITIES, *MODALITY_ALIASES):
        if prefix + key not in archive.shapes:
            continue
        lengths = f"{prefix}{key}_lengths"
        parts.append(
            padded_part(
                f"{archive.path.name}, {word}" if word else archive.path.name,
                MODALITY_ALIASES.get(key, key),
                known,
                _Lazy(archive, prefix + key),
                names=names,
                lengths=archive.load(lengths) if lengths in archive.shapes else None,
            )
        )
    return parts
