"""What is in a cache, and whether it is whole.

Listing reads sidecars alone. Verifying reads everything: a shard's digest, its ids, lengths and
values; the digests that sidecars and `features.json` carry of themselves, and the fingerprint
computed anew; the table against the digest in its record, and the quarantine. A shard that was
never written is no damage, so it is only counted.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from extract.errors import ExtractError
from extract.features import (
    DESCRIPTION_NAME,
    QUARANTINE_NAME,
    FeatureSet,
    Quarantined,
    fingerprint_of,
    gather_quarantine,
    open_feature_set,
    quarantine_text,
)
from extract.files import sha256_of
from extract.plan import begun_numbers
from extract.shards import (
    Shard,
    Sidecar,
    read_sidecar,
    shard_numbers,
    shard_path,
    sidecar_path,
)
from extract.table import SPLITS, read_table, table_problem
from pipeline.errors import PipelineError

TABLE_NAME = "utterances.parquet"

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Listed:
    """One feature set, as its sidecars describe it.

    Attributes:
        dataset: Name of the dataset.
        modality: Name of the modality.
        encoder: The spec it was made with.
        fingerprint: Its fingerprint.
        folder: Where it lies.
        utterances: How many are in finished shards.
        of: Rows of the dataset's table; None where that cannot be read.
        present: Utterances with at least one row.
        rows: Rows of features.
        dim: Columns of the features.
        dtype: Type of the values.
        shards: Finished shards.
        bytes: Size of the shards.
        age_seconds: Time since it was begun.
        set_aside: Utterances that lack features, with a reason.
        random_weights: Whether the encoder was never trained.
    """

    dataset: str
    modality: str
    encoder: str
    fingerprint: str
    folder: Path
    utterances: int
    of: int | None
    present: int
    rows: int
    dim: int
    dtype: str
    shards: int
    bytes: int
    age_seconds: float
    set_aside: int
    random_weights: bool

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "folder": str(self.folder)}


@dataclass(frozen=True)
class Damage:
    """A file that is not what it should be."""

    file: Path
    problem: str


@dataclass
class Verdict:
    """What verifying found."""

    damaged: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shards: int = 0
    utterances: int = 0
    bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        damaged = [{"file": str(each.file), "problem": each.problem} for each in self.damaged]
        return {**asdict(self), "damaged": damaged}


def dataset_folders(cache: Path, datasets: list[str] | None = None) -> list[Path]:
    """Return the folders of the cache's datasets, or of those named.

    Raises:
        PipelineError: there is no cache, or no such dataset in it.
    """
    if not cache.is_dir():
        raise PipelineError(f"{cache}: no cache; give --cache or set EGMF_CACHE")
    found = [
        each
        for each in sorted(cache.iterdir())
        if (each / TABLE_NAME).is_file() or (each.is_dir() and set_folders(each))
    ]
    for name in datasets or ():
        if cache / name not in found:
            raise PipelineError(
                f"{cache}: holds no {name!r}; there are: "
                f"{', '.join(each.name for each in found) or 'none'}"
            )
    return [each for each in found if not datasets or each.name in datasets]


def list_cache(cache: Path, datasets: list[str] | None = None) -> tuple[list[Listed], list[str]]:
    """Return every feature set, and what could not be read.

    Raises:
        PipelineError: there is no cache, or no such dataset in it.
    """
    listed: list[Listed] = []
    unreadable: list[str] = []
    for dataset in dataset_folders(cache, datasets):
        size = _table_rows(dataset / TABLE_NAME)
        for folder in set_folders(dataset):
            try:
                listed.append(_list(open_feature_set(folder), size))
            except ExtractError as error:
                unreadable.append(str(error))
    return listed, unreadable


def verify_cache(cache: Path, datasets: list[str] | None, progress: Progress) -> Verdict:
    """Read everything in a cache and name every file that is damaged.

    Raises:
        PipelineError: there is no cache, or no such dataset in it.
    """
    folders = dataset_folders(cache, datasets)
    total = sum(len(begun_numbers(each)) for dataset in folders for each in set_folders(dataset))
    verdict = Verdict()
    with progress("verifying", total, "shards") as advance:
        for dataset in folders:
            splits = _verify_table(dataset / TABLE_NAME, verdict)
            for folder in set_folders(dataset):
                _verify_set(folder, splits, verdict, advance)
    return verdict


def verify_feature_set(folder: Path) -> Verdict:
    """Read everything of one feature set, and name every file of it that is damaged."""
    verdict = Verdict()
    splits = _verify_table(folder.parents[1] / TABLE_NAME, Verdict())  # its own damage is another's
    _verify_set(folder, splits, verdict, lambda done: None)
    return verdict


def set_folders(dataset: Path) -> list[Path]:
    """Return the folders that hold a feature set, or what is left of one."""
    return [
        each
        for each in sorted(dataset.glob("*/*"))
        if (each / DESCRIPTION_NAME).is_file() or begun_numbers(each)
    ]


def _table_rows(path: Path) -> int | None:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _list(features: FeatureSet, of: int | None) -> Listed:
    """Add up the sidecars, one in memory at a time."""
    counted: Counter[str] = Counter()
    for number in shard_numbers(features.folder):
        sidecar = read_sidecar(sidecar_path(features.folder, number))
        counted["utterances"] += len(sidecar.ids)
        counted["present"] += sum(1 for rows in sidecar.rows if rows)
        counted["rows"] += sum(sidecar.rows)
        counted["shards"] += 1
        counted["bytes"] += sidecar.size
        counted["set_aside"] += len(sidecar.quarantined)
    return Listed(
        dataset=features.dataset,
        modality=features.modality,
        encoder=features.encoder,
        fingerprint=features.fingerprint,
        folder=features.folder,
        utterances=counted["utterances"],
        of=of,
        present=counted["present"],
        rows=counted["rows"],
        dim=features.dim,
        dtype=features.dtype,
        shards=counted["shards"],
        bytes=counted["bytes"],
        age_seconds=_age(features.folder / DESCRIPTION_NAME),
        set_aside=counted["set_aside"],
        random_weights=features.random_weights,
    )


def _age(description: Path) -> float:
    began = datetime.fromtimestamp(description.stat().st_mtime, UTC)
    return max(0.0, (datetime.now(UTC) - began).total_seconds())


def _verify_table(path: Path, verdict: Verdict) -> dict[str, str] | None:
    """Return each id's split, None where the table cannot be read."""
    try:
        table = read_table(path)
    except ExtractError as error:
        _blame(verdict, path, str(error))
        return None
    if (found := table_problem(path)) is not None:
        _blame(verdict, *found)
    names = table["id"].tolist()
    if len(set(names)) != len(names):
        _blame(verdict, path, "holds an id twice; run egmf-extract again to write it anew")
    return dict(zip(names, table["split"].tolist(), strict=True))


def _verify_set(
    folder: Path, splits: dict[str, str] | None, verdict: Verdict, advance: Callable[[int], None]
) -> None:
    """Check one feature set."""
    try:
        features = open_feature_set(folder)
        _check_description(features)
    except ExtractError as error:
        _blame(verdict, folder / DESCRIPTION_NAME, str(error))
        advance(len(begun_numbers(folder)))
        return
    sidecars = []
    held: set[str] = set()
    for number in begun_numbers(folder):
        try:
            sidecar = _verify_shard(features, number)
        except _DamagedError as error:
            verdict.damaged.append(error.damage)
        else:
            if both := held.intersection(sidecar.ids):
                _blame(
                    verdict, sidecar_path(folder, number), f"{min(both)} is in another shard too"
                )
            held.update(sidecar.ids)
            sidecars.append(sidecar)
            verdict.shards += 1
            verdict.utterances += len(sidecar.ids)
            verdict.bytes += sidecar.size
        advance(1)
    if splits is None:
        return
    ids = splits.keys()
    if missing := len(ids - held):
        verdict.notes.append(f"{folder}: {missing:,} of {len(ids):,} utterances are not there yet")
    elif problem := _quarantine_problem(folder, sidecars, splits):
        _blame(verdict, folder / QUARANTINE_NAME, problem)
    if stale := len(held - ids):
        verdict.notes.append(f"{folder}: {stale:,} utterances are no longer in the table")


class _DamagedError(Exception):
    """A shard or its sidecar is damaged."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(problem)
        self.damage = Damage(file, problem)


def _check_description(features: FeatureSet) -> None:
    """Hold `features.json` against itself and its place.

    Raises:
        ExtractError: the fingerprint is not that of its ingredients, or the folder is another's.
    """
    path = features.folder / DESCRIPTION_NAME
    ingredients = features.description().get("fingerprinted")
    if not isinstance(ingredients, dict) or fingerprint_of(ingredients) != features.fingerprint:
        raise ExtractError(f"{path}: its fingerprint is not that of what it lists; damaged")
    names = (features.dataset, features.modality, f"{features.slug}-{features.fingerprint[:8]}")
    if features.folder.parts[-3:] != names:
        raise ExtractError(f"{path}: belongs to {'/'.join(names)}, not here")


def _verify_shard(features: FeatureSet, number: int) -> Sidecar:
    """Check one shard and return its sidecar.

    Raises:
        _DamagedError: the shard or the sidecar is damaged or missing.
    """
    path, beside = shard_path(features.folder, number), sidecar_path(features.folder, number)
    if not beside.exists():
        raise _DamagedError(beside, "missing; without it the shard counts as unfinished")
    try:
        sidecar = read_sidecar(beside)
    except ExtractError as error:
        raise _DamagedError(beside, str(error)) from None
    belongs = (sidecar.dataset, sidecar.modality, sidecar.fingerprint)
    if belongs != (features.dataset, features.modality, features.fingerprint):
        raise _DamagedError(beside, "belongs to another feature set")
    if not len(sidecar.ids) == len(sidecar.rows) == len(sidecar.digests):
        raise _DamagedError(beside, "ids, rows and digests differ in number")
    try:
        if sha256_of(path) != sidecar.sha256:
            raise _DamagedError(path, "not the bytes that its sidecar describes")
    except FileNotFoundError:
        raise _DamagedError(path, "missing, although its sidecar is there") from None
    except OSError as error:
        raise _DamagedError(path, f"cannot be read: {error.strerror}") from None
    try:
        with Shard(path, features.fingerprint) as shard:
            if shard.ids != sidecar.ids or np.diff(shard.offset).tolist() != sidecar.rows:
                raise _DamagedError(beside, "ids or rows are not those of the shard")
            shard.check(sidecar.ids, features.dim)
            if (found := shard.read(0).value.dtype) != features.dtype:
                raise _DamagedError(path, f"holds {found}, not {features.dtype}")
    except ExtractError as error:
        raise _DamagedError(path, str(error)) from None
    return sidecar


def _quarantine_problem(
    folder: Path, sidecars: list[Sidecar], splits: dict[str, str]
) -> str | None:
    """Hold `quarantine.csv` against the sidecars that it was gathered from."""
    again = "run egmf-extract (or the import) again to write it anew"
    try:
        text = (folder / QUARANTINE_NAME).read_bytes().decode()
        found = [Quarantined(*row) for row in list(csv.reader(io.StringIO(text)))[1:]]
    except FileNotFoundError:
        return f"missing; {again}"
    except (OSError, ValueError, TypeError, csv.Error):
        return f"not readable; {again}"
    # The table may have changed since: splits move, and rows come and go, without a new encoding.
    known = {one.id: one.split for one in found if one.split in SPLITS}
    expected = gather_quarantine(sidecars, {**splits, **known})
    if text == quarantine_text(found) and sorted(found) == sorted(expected):
        return None
    return f"not what the sidecars say; {again}"


def _blame(verdict: Verdict, file: Path, problem: str) -> None:
    verdict.damaged.append(Damage(file, problem.removeprefix(f"{file}: ")))
