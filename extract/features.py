"""A feature set: every shard of one modality of one dataset from one encoder, and its reader.

`features.json` says what the features are (see `Description`); the folder's name carries the
first eight hex digits of the fingerprint, so that two settings never share a folder. The index is
built from the sidecars alone; shards are opened when a row is first read, at most `MAX_OPEN` at a
time, and in each process anew, because HDF5 handles neither survive a fork nor can be pickled.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.files import publishing
from extract.sealed import publish_sealed, read_sealed
from extract.shards import (
    FORMAT_VERSION,
    Shard,
    Sidecar,
    find_done,
    read_sidecar,
    shard_numbers,
    shard_path,
    sidecar_path,
)

DESCRIPTION_NAME = "features.json"
QUARANTINE_NAME = "quarantine.csv"
MAX_OPEN = 64
"""Open shards of a reader at most: HDF5 takes more than half a megabyte for each."""

_ROWS_AT_MOST = 2**32  # of a shard, in a reader's index


class Quarantined(NamedTuple):
    """One row of `quarantine.csv`."""

    id: str
    split: str
    file: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Description:
    """What `features.json` holds."""

    dataset: str
    modality: str
    encoder: str  # the spec as the user gave it
    slug: str
    fingerprint: str
    fingerprinted: Mapping[str, Any]  # what went into the fingerprint
    weights_digest: str
    dim: int
    dtype: str
    rows_per_second: float | None
    random_weights: bool
    preset: str | None
    versions: Mapping[str, str]
    created: str
    imported_from: Mapping[str, str] = field(default_factory=dict)  # file name: its SHA-256
    format_version: int = FORMAT_VERSION


def fingerprint_of(ingredients: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of the canonical JSON of everything that changes a value."""
    canonical = json.dumps(
        {**ingredients, "format_version": FORMAT_VERSION},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def feature_set_folder(
    cache: Path, dataset: str, modality: str, slug: str, fingerprint: str
) -> Path:
    """Return where a feature set lies."""
    return cache / dataset / modality / f"{slug}-{fingerprint[:8]}"


def find_feature_set_folder(
    cache: Path, dataset: str, modality: str, slug: str, fingerprint: str
) -> Path:
    """Return where a feature set lies, or would lie.

    The fingerprint tells sets apart: one whose encoder had another name when it was begun, such as
    that of a model's folder, is found under that name.
    """
    named = feature_set_folder(cache, dataset, modality, slug, fingerprint)
    if named.exists():
        return named
    for path in sorted(named.parent.glob(f"*-{fingerprint[:8]}/{DESCRIPTION_NAME}")):
        try:
            if open_feature_set(path.parent).fingerprint == fingerprint:
                return path.parent
        except ExtractError:
            continue
    return named


def describe_feature_set(folder: Path, description: Description) -> None:
    """Write `features.json`, unless it is there already.

    Raises:
        ExtractError: the folder holds a feature set with another fingerprint.
    """
    path = folder / DESCRIPTION_NAME
    if path.exists():
        if open_feature_set(folder).fingerprint != description.fingerprint:
            raise ExtractError(
                f"{folder}: holds other features under the same short name; move it away"
            )
        return
    publish_sealed(path, asdict(description))


def write_quarantine(folder: Path, rows: Sequence[Quarantined]) -> None:
    """Write `quarantine.csv`, all or nothing."""
    with publishing(folder / QUARANTINE_NAME) as temporary:
        temporary.write_text(quarantine_text(rows), encoding="utf-8", newline="")


def quarantine_text(rows: Sequence[Quarantined]) -> str:
    """Return what `quarantine.csv` holds for these rows."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(Quarantined._fields)
    writer.writerows(rows)
    return stream.getvalue()


def gather_quarantine(sidecars: Iterable[Sidecar], splits: Mapping[str, str]) -> list[Quarantined]:
    """Return what sidecars set aside, as far as it is still in the table.

    Args:
        sidecars: Of the finished shards, in order.
        splits: Each utterance's split.
    """
    return [
        Quarantined(one.id, splits[one.id], one.file, one.stage, one.reason)
        for sidecar in sidecars
        for one in sidecar.quarantined
        if one.id in splits
    ]


@dataclass(frozen=True)
class FeatureSet:
    """One feature set on disk."""

    folder: Path
    dataset: str
    modality: str
    encoder: str
    slug: str
    fingerprint: str
    dim: int
    dtype: str
    rows_per_second: float | None
    random_weights: bool
    preset: str | None

    def index(self) -> dict[str, tuple[int, int]]:
        """Return each id's shard number and its row there.

        Raises:
            ExtractError: a shard that was done is gone or has another size.
        """
        return dict(self.places())

    def places(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield what `index` returns, one by one.

        Raises:
            ExtractError: as `index`.
        """
        for number, sidecar in self.sidecars():
            for row, name in enumerate(sidecar.ids):
                yield name, (number, row)

    def sidecars(self) -> Iterator[tuple[int, Sidecar]]:
        """Yield the number and the sidecar of each shard, in order.

        Raises:
            ExtractError: a shard that was done is gone or has another size.
        """
        for number in shard_numbers(self.folder):
            sidecar = find_done(self.folder, number, self.fingerprint)
            if sidecar is None:
                read_sidecar(sidecar_path(self.folder, number))  # says what is wrong with it
                raise ExtractError(
                    f"{shard_path(self.folder, number)}: missing, or not the file that its "
                    "sidecar describes; run egmf-extract again to write this shard anew"
                )
            yield number, sidecar

    def lengths(self) -> dict[str, int]:
        """Return how many rows each id has; no shard is opened."""
        lengths: dict[str, int] = {}
        for number in shard_numbers(self.folder):
            sidecar = read_sidecar(sidecar_path(self.folder, number))
            lengths.update(zip(sidecar.ids, sidecar.rows, strict=True))
        return lengths

    def description(self) -> dict[str, Any]:
        """Return what `features.json` holds."""
        return read_sealed(self.folder / DESCRIPTION_NAME)[0]

    def reader(self) -> FeatureReader:
        """Return a reader of this feature set."""
        return FeatureReader(self)

    def shard(self, number: int, cache_bytes: int | None = None) -> Shard:
        """Open a shard; see `Shard`.

        Raises:
            ExtractError: it is missing, damaged, or of another feature set.
        """
        return Shard(shard_path(self.folder, number), self.fingerprint, cache_bytes)

    def quarantine(self) -> list[Quarantined]:
        """Return the rows of `quarantine.csv`; none when the file is not there."""
        path = self.folder / QUARANTINE_NAME
        if not path.exists():
            return []
        with path.open(encoding="utf-8", newline="") as stream:
            return [Quarantined(*row) for row in list(csv.reader(stream))[1:]]


def open_feature_set(folder: Path) -> FeatureSet:
    """Open the feature set in `folder`.

    Raises:
        ExtractError: there is none, it is damaged, or it has another format version.
    """
    path = folder / DESCRIPTION_NAME
    try:
        fields, problem = read_sealed(path)
        version = fields["format_version"]
        if version != FORMAT_VERSION:
            raise ExtractError(
                f"{path}: format {version}, but this version reads format {FORMAT_VERSION}; "
                "extract again into another --cache, or remove this folder"
            )
        if problem is not None:
            raise ValueError(problem)
        names = [name for name in FeatureSet.__dataclass_fields__ if name != "folder"]
        return FeatureSet(folder=folder, **{name: fields[name] for name in names})
    except FileNotFoundError as error:
        raise ExtractError(f"{folder}: no feature set here; run egmf-extract first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExtractError(
            f"{path}: damaged ({error}); remove this file and extract (or import) again, which "
            "writes it anew and keeps the shards"
        ) from error


def list_feature_sets(cache: Path, dataset: str) -> list[FeatureSet]:
    """Return the feature sets of a dataset, by modality and folder name."""
    found = sorted((cache / dataset).glob(f"*/*/{DESCRIPTION_NAME}"))
    return [open_feature_set(path.parent) for path in found]


class FeatureReader:
    """Reads features by id. Can be pickled; every process opens its own files."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        # For large corpora: an id is one string for all modalities, its place one number.
        self._index = {
            intern(name): number * _ROWS_AT_MOST + row for name, (number, row) in features.places()
        }
        self._open: dict[int, Shard] = {}
        self._pid = os.getpid()

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __len__(self) -> int:
        return len(self._index)

    def read(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return one utterance's `value` [rows, dim] and `time` [rows]; no rows when absent.

        Raises:
            ExtractError: the id is not in the cache, or its shard is damaged or of another set.
        """
        shard, row = self._place(name)
        found = shard.read(row)
        return found.value.astype(np.float32), found.time

    def value(self, name: str) -> NDArray[Any]:
        """Return one utterance's rows as they are stored, [rows, dim]; none when absent.

        Raises:
            ExtractError: as `read`.
        """
        shard, row = self._place(name)
        return shard.value(row)

    def close(self) -> None:
        """Close every open shard."""
        for shard in self._open.values():
            shard.close()
        self._open = {}

    def _place(self, name: str) -> tuple[Shard, int]:
        if name not in self._index:
            raise ExtractError(
                f"{self.features.folder}: no features of {name}; run egmf-extract again"
            )
        number, row = divmod(self._index[name], _ROWS_AT_MOST)
        return self._shard(number), row

    def _shard(self, number: int) -> Shard:
        if self._pid != os.getpid():  # handles that came through a fork must not be used
            self._open, self._pid = {}, os.getpid()
        shard = self._open.pop(number, None)
        if shard is None:
            # Rows are read in any order: chunks kept would be of no use, and megabytes a shard.
            shard = self.features.shard(number, cache_bytes=0)
        self._open[number] = shard  # the one used last is at the end
        if len(self._open) > MAX_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}
