"""One shard: an HDF5 file of ragged features, and the sidecar that says it is done.

Layout (h5py and h5ls read it): `id` (fixed-length UTF-8), `offset` (int64, N + 1), `value`
([rows, dim]; utterance i owns `offset[i]:offset[i + 1]`) and `time` (float32, one per row);
attributes name the format, the fingerprint, the dataset and the modality.

`libver="latest"` checksums HDF5's own structures and `fletcher32` the data, so no flipped bit goes
unseen; ids have a fixed length because checksums do not reach into variable-length strings. The
file is built in memory and written in one go: a full disk is then a plain `OSError`, not a library
that fails while it closes, and the same features give the same bytes. An `.h5` without a sidecar
that matches it is not done, and a sidecar carries a digest of itself.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from extract.errors import ExtractError
from extract.files import publishing
from extract.sealed import publish_sealed, read_sealed

FORMAT_VERSION = 1
MAX_SHARD_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 18
_HALF_MAGNITUDE, _HALF_INFINITY = np.uint16(0x7FFF), 0x7C00
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError)  # what h5py raises on a damaged file


@dataclass(frozen=True)
class Identity:
    """What a shard belongs to."""

    dataset: str
    modality: str
    fingerprint: str


@dataclass(frozen=True)
class Features:
    """One utterance's features; zero rows when the modality is absent.

    `value` is [rows, dim]; `time` is [rows]: seconds from the utterance's start, or token index.
    """

    value: NDArray[Any]
    time: NDArray[np.float32]


@dataclass(frozen=True)
class SetAside:
    """An utterance whose stream could not be used, and why."""

    id: str
    file: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Sidecar:
    """What is known of a finished shard; written after it, so it is the mark of being done."""

    dataset: str
    modality: str
    fingerprint: str
    sha256: str
    size: int
    ids: list[str]
    digests: list[str]
    rows: list[int]
    quarantined: list[SetAside] = field(default_factory=list)
    flags: list[tuple[str, str]] = field(default_factory=list)  # (id, flag)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # by id: what was counted in it
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ""  # what the encoder ran on: `cpu`, or a GPU's name
    halvings: int = 0  # how often a batch was halved for lack of memory
    format_version: int = FORMAT_VERSION


def shard_path(folder: Path, number: int) -> Path:
    """Return the place of shard `number` in a feature set's folder."""
    return folder / f"{number:05d}.h5"


def sidecar_path(folder: Path, number: int) -> Path:
    """Return the place of the sidecar of shard `number`."""
    return folder / f"{number:05d}.json"


def write_shard(
    path: Path,
    identity: Identity,
    ids: Sequence[str],
    features: Sequence[Features],
    *,
    dim: int,
    dtype: DTypeLike = np.float16,
) -> tuple[str, int]:
    """Write one shard, all or nothing, and check what was written.

    Returns:
        The file's hex SHA-256 and its size in bytes.

    Raises:
        ExtractError: a value is not finite, or what is on disk is not what was written.
        OSError: the disk is full, or the folder cannot be written.
    """
    image = _image(identity, ids, features, dim, np.dtype(dtype))
    with publishing(path) as temporary:
        temporary.write_bytes(image)
        with Shard(temporary, identity.fingerprint) as shard:
            shard.check(ids, dim)
    return hashlib.sha256(image).hexdigest(), len(image)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Write a shard's sidecar, all or nothing."""
    publish_sealed(path, asdict(sidecar))


def read_sidecar(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises:
        ExtractError: it is missing, damaged, or of another format version.
    """
    try:
        fields, problem = read_sealed(path)
        version = fields["format_version"]
        if version != FORMAT_VERSION:
            raise ExtractError(
                f"{path}: shard format {version}, but this version reads format {FORMAT_VERSION}; "
                "extract into another --cache, or with --fresh"
            )
        if problem is not None:
            raise ValueError(problem)
        fields["quarantined"] = [SetAside(**row) for row in fields["quarantined"]]
        fields["flags"] = [(name, flag) for name, flag in fields["flags"]]
        return Sidecar(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExtractError(
            f"{path}: not a readable sidecar ({error}); run egmf-extract again to write it anew"
        ) from error


def find_done(folder: Path, number: int, fingerprint: str) -> Sidecar | None:
    """Return the sidecar of shard `number` if that shard is done, else None."""
    try:
        sidecar = read_sidecar(sidecar_path(folder, number))
        size = shard_path(folder, number).stat().st_size
    except (ExtractError, OSError):
        return None
    return sidecar if (sidecar.fingerprint, sidecar.size) == (fingerprint, size) else None


def shard_numbers(folder: Path) -> list[int]:
    """Return the numbers of the shards that have a sidecar, in order."""
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())


class Shard:
    """An open shard, read-only; published shards never change, so no lock is taken.

    Raises:
        ExtractError: the file is damaged, of another format version, or of another feature set.
    """

    def __init__(self, path: Path, fingerprint: str, cache_bytes: int | None = None) -> None:
        """Open a shard; `cache_bytes` of decoded chunks are kept, HDF5's own default where None."""
        self.path = path
        try:
            self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=cache_bytes)
        except FileNotFoundError as error:
            raise ExtractError(f"{path}: no such shard; run egmf-extract again") from error
        except _DAMAGE as error:
            raise self._damaged(error) from error
        try:
            self._verify(fingerprint)
            self.offset: NDArray[np.int64] = self._file["offset"][:]
            self._value, self._time = self._file["value"], self._file["time"]
        except _DAMAGE as error:
            self.close()
            raise self._damaged(error) from error

    @cached_property
    def ids(self) -> list[str]:
        """The utterances' ids, in order; read when first asked for, which reading rows is not."""
        try:
            return list(self._file["id"].asstr()[:])
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def read(self, row: int) -> Features:
        """Return the features of utterance number `row`."""
        try:
            time = self._time[self._rows(row)]
        except _DAMAGE as error:
            raise self._damaged(error) from error
        return Features(self.value(row), time)

    def value(self, row: int) -> NDArray[Any]:
        """Return the values alone of utterance number `row`, [rows, dim]."""
        try:
            value: NDArray[Any] = self._value[self._rows(row)]
        except _DAMAGE as error:
            raise self._damaged(error) from error
        if not _all_finite(value):
            raise ExtractError(
                f"{self.path}: the features of {self.ids[row]} hold a value that is not finite; "
                "remove the shard and its sidecar, then run egmf-extract again"
            )
        return value

    def check(self, ids: Sequence[str], dim: int) -> None:
        """Compare the whole shard with what it should hold.

        Raises:
            ExtractError: counts, ids, types or checksums differ, or a value is not finite.
        """
        rows = int(self.offset[-1])
        shapes = (self._value.shape, self._time.shape, self.offset.shape)
        if shapes != ((rows, dim), (rows,), (len(ids) + 1,)) or self.ids != list(ids):
            raise ExtractError(f"{self.path}: what is on disk is not what was written; run again")
        for row, name in enumerate(ids):
            if not np.isfinite(self.read(row).time).all():
                raise ExtractError(
                    f"{self.path}: the times of {name} hold a value that is not finite; run again"
                )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, row: int) -> slice:
        return slice(int(self.offset[row]), int(self.offset[row + 1]))

    def _verify(self, fingerprint: str) -> None:
        version = int(self._file.attrs["format_version"])
        if version != FORMAT_VERSION:
            raise ExtractError(
                f"{self.path}: shard format {version}, but this version reads format "
                f"{FORMAT_VERSION}; extract into another --cache, or with --fresh"
            )
        if self._file.attrs["fingerprint"] != fingerprint:
            raise ExtractError(
                f"{self.path}: this shard belongs to another feature set; remove it and its "
                "sidecar, then run egmf-extract again"
            )

    def _damaged(self, error: Exception) -> ExtractError:
        return ExtractError(
            f"{self.path}: damaged ({error}); remove it and its sidecar, then run egmf-extract "
            "again to write this shard anew"
        )


def _all_finite(value: NDArray[Any]) -> bool:
    """Tell whether no value is infinite or NaN; half precision by its bits, ten times faster."""
    if value.dtype != np.float16:
        return bool(np.isfinite(value).all())
    magnitude = value.view(np.uint16) & _HALF_MAGNITUDE
    return magnitude.size == 0 or int(magnitude.max()) < _HALF_INFINITY


def _image(
    identity: Identity,
    ids: Sequence[str],
    features: Sequence[Features],
    dim: int,
    dtype: np.dtype[Any],
) -> bytes:
    """Return the bytes of the HDF5 file."""
    offset = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(one.value) for one in features], out=offset[1:])
    rows = int(offset[-1])
    value, time = np.zeros((rows, dim), dtype), np.zeros(rows, np.float32)
    for one, first, last in zip(features, offset[:-1], offset[1:], strict=True):
        value[first:last], time[first:last] = one.value, one.time
    names = [name.encode() for name in ids]
    text = h5py.string_dtype("utf-8", max(map(len, names), default=1))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest") as file:
        file.attrs.update(
            format_version=FORMAT_VERSION,
            fingerprint=identity.fingerprint,
            dataset=identity.dataset,
            modality=identity.modality,
        )
        for name, array in (
            ("id", np.array(names, dtype=text)),
            ("offset", offset),
            ("value", value),
            ("time", time),
        ):
            row_bytes = max(1, array[:1].nbytes)
            per_chunk = max(1, min(len(array), _CHUNK_BYTES // row_bytes))
            # An open first axis lets an empty array have chunks, and with them a checksum.
            dataset = file.create_dataset(
                name,
                data=array,
                chunks=(per_chunk, *array.shape[1:]),
                maxshape=(None, *array.shape[1:]),
                fletcher32=True,
            )
            # Where its parts lie is decided when it is closed, which must not wait for the last
            # reference: a sampling profiler, such as dask's, holds some for a while.
            dataset.id.close()
    return buffer.getvalue()
