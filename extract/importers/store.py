"""Store features that others computed as a feature set like any other.

The plan decides which shards are to be written, as it does for encoders, so an import that was
interrupted goes on where it was and one that is done does nothing. Values that are not finite
become zero, as the field's own loaders make them (MMSA: -inf in audio, NaN in vision), and are
counted; everything else stays as it is, in its own type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.features import (
    Description,
    Quarantined,
    describe_feature_set,
    feature_set_folder,
    fingerprint_of,
    gather_quarantine,
    write_quarantine,
)
from extract.files import remove_stale
from extract.locks import writing
from extract.plan import Row, ShardPlan, make_plan
from extract.shards import (
    Features,
    Identity,
    SetAside,
    Sidecar,
    find_done,
    shard_numbers,
    shard_path,
    sidecar_path,
    write_shard,
    write_sidecar,
)

IMPORT_VERSION = 1
"""Part of every import's fingerprint; raised when the same file would give other values."""

ROWS_PER_SHARD = 512
SHARD_BYTES = 32 << 20  # smaller than an encoder's: writing a shard takes about four times its size
STAGE = "import"

Advance = Callable[[int], None]
Progress = Callable[[str, int, str], AbstractContextManager[Advance]]
"""Given a title, a total and a unit, shows progress while its block lasts."""


class UnusableError(Exception):
    """One utterance's features cannot be used; the message is the reason in the quarantine."""


@dataclass(frozen=True)
class Source:
    """Where features come from, and what they are.

    Attributes:
        dataset: Name of the dataset.
        modality: Name of the modality.
        encoder: How users name the feature set.
        slug: First part of its folder's name.
        ingredients: Everything that changes a value; the fingerprint is made of it.
        files: SHA-256 by file name.
        dim: Columns of the features.
        dtype: Type of the values.
        longest: Most rows that one utterance can have.
    """

    dataset: str
    modality: str
    encoder: str
    slug: str
    ingredients: Mapping[str, Any]
    files: Mapping[str, str]
    dim: int
    dtype: np.dtype[Any]
    longest: int


@dataclass
class Stored:
    """One feature set after an import.

    Attributes:
        modality: Name of the modality.
        encoder: How users name the feature set.
        folder: Where it lies.
        dim: Columns of the features.
        dtype: Type of the values.
        utterances: Rows of the table.
        present: Those that have features.
        rows: Rows of features.
        bytes: Size of the shards.
        absent: Utterances without features, by reason.
        flags: Utterances whose values were mended, by what was mended.
        set_to_zero: Values that this import set to zero, by what they were.
        shards_written: Shards that this import wrote.
        shards_kept: Shards that were done before.
        utterances_written: Rows of the table in the shards that this import wrote.
        lock_taken_over: A sentence about the dead process whose lock stood in the way.
    """

    modality: str
    encoder: str
    folder: Path
    dim: int
    dtype: str
    utterances: int = 0
    present: int = 0
    rows: int = 0
    bytes: int = 0
    absent: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    set_to_zero: dict[str, int] = field(default_factory=dict)
    shards_written: int = 0
    shards_kept: int = 0
    utterances_written: int = 0
    lock_taken_over: str | None = None


def store_features(
    cache: Path,
    source: Source,
    rows: Sequence[Row],
    read: Callable[[Row], NDArray[Any]],
    advance: Advance,
) -> Stored:
    """Write what is missing of a feature set.

    Args:
        cache: The cache's folder.
        source: What the features are.
        rows: Every utterance of the table; what has no features says so by `absent`.
        read: Return the features of a row, `[rows, dim]`; raise `UnusableError` to set it aside.
        advance: Counts utterances as done.

    Raises:
        ExtractError: a value is too large, the folder holds other features, or another process is
            writing them.
        OSError: the cache cannot be written.
    """
    fingerprint = fingerprint_of(source.ingredients)
    folder = feature_set_folder(cache, source.dataset, source.modality, source.slug, fingerprint)
    with writing(folder) as taken_over:
        stored = _store(folder, fingerprint, source, rows, read, advance)
    stored.lock_taken_over = taken_over
    return stored


def _store(
    folder: Path,
    fingerprint: str,
    source: Source,
    rows: Sequence[Row],
    read: Callable[[Row], NDArray[Any]],
    advance: Advance,
) -> Stored:
    """Write what is missing, the lock being held."""
    _describe(folder, source, fingerprint)
    remove_stale(folder)
    width = source.longest * source.dim * source.dtype.itemsize
    plan = make_plan(
        folder, fingerprint, rows, max(1, min(ROWS_PER_SHARD, SHARD_BYTES // max(1, width)))
    )
    stored = Stored(source.modality, source.encoder, folder, source.dim, source.dtype.name)
    stored.shards_written, stored.shards_kept = len(plan.todo), len(plan.done)
    stored.utterances_written = plan.rows_todo()
    advance(plan.rows_done())
    zeros: Counter[str] = Counter()
    for shard in plan.todo:
        _write(folder, source, fingerprint, shard, read, zeros)
        advance(len(shard.rows))
    stored.set_to_zero = dict(zeros)
    _sum_up(stored, fingerprint, {row.id: row.split for row in rows})
    return stored


def _describe(folder: Path, source: Source, fingerprint: str) -> None:
    describe_feature_set(
        folder,
        Description(
            dataset=source.dataset,
            modality=source.modality,
            encoder=source.encoder,
            slug=source.slug,
            fingerprint=fingerprint,
            fingerprinted=source.ingredients,
            weights_digest="",
            dim=source.dim,
            dtype=source.dtype.name,
            rows_per_second=None,
            random_weights=False,
            preset=None,
            versions={name: metadata.version(name) for name in ("h5py", "numpy")},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            imported_from=source.files,
        ),
    )


def _write(
    folder: Path,
    source: Source,
    fingerprint: str,
    shard: ShardPlan,
    read: Callable[[Row], NDArray[Any]],
    zeros: Counter[str],
) -> None:
    """Write one shard and its sidecar."""
    features: list[Features] = []
    absent: list[SetAside] = []
    flags: list[tuple[str, str]] = []
    for row in shard.rows:
        value = np.zeros((0, source.dim), source.dtype)
        if row.absent is not None:
            absent.append(row.absent)
        else:
            try:
                value, found = _finite(read(row), row)
            except UnusableError as error:
                absent.append(SetAside(row.id, row.file, STAGE, str(error)))
            else:
                zeros.update(found)
                flags += [(row.id, f"{what} set to 0") for what in found]
                if not len(value):
                    absent.append(SetAside(row.id, row.file, STAGE, f"no rows in {row.file}"))
        features.append(Features(value, np.arange(len(value), dtype=np.float32)))
    ids = [row.id for row in shard.rows]
    sha256, size = write_shard(
        shard_path(folder, shard.number),
        Identity(source.dataset, source.modality, fingerprint),
        ids,
        features,
        dim=source.dim,
        dtype=source.dtype,
    )
    write_sidecar(
        sidecar_path(folder, shard.number),
        Sidecar(
            dataset=source.dataset,
            modality=source.modality,
            fingerprint=fingerprint,
            sha256=sha256,
            size=size,
            ids=ids,
            digests=[row.digest for row in shard.rows],
            rows=[len(one.value) for one in features],
            quarantined=absent,
            flags=flags,
        ),
    )


def _finite(value: NDArray[Any], row: Row) -> tuple[NDArray[Any], Counter[str]]:
    """Return the values with zeros for those that are not finite, and how many those were.

    Raises:
        ExtractError: a value does not fit single precision, which models compute in.
    """
    finite = np.isfinite(value)
    found: Counter[str] = Counter()
    if not finite.all():
        found["NaN"] = int(np.isnan(value).sum())
        found["-inf"] = int(np.isneginf(value).sum())
        found["inf"] = int(np.isposinf(value).sum())
        value = np.where(finite, value, np.zeros((), value.dtype))
    if len(value) and np.abs(value).max() > np.finfo(np.float32).max:
        raise ExtractError(f"{row.file}: the features of {row.id} hold a value beyond float32")
    return value, +found  # without the counts of zero


def _sum_up(stored: Stored, fingerprint: str, splits: Mapping[str, str]) -> None:
    """Add up the finished shards, and write the quarantine."""
    absent: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    quarantined: list[Quarantined] = []
    for number in shard_numbers(stored.folder):
        sidecar = find_done(stored.folder, number, fingerprint)
        if sidecar is None:
            continue
        held = [
            rows for name, rows in zip(sidecar.ids, sidecar.rows, strict=True) if name in splits
        ]
        stored.utterances += len(held)
        stored.present += sum(1 for rows in held if rows)
        stored.rows += sum(held)
        stored.bytes += sidecar.size
        flags.update(flag for name, flag in sidecar.flags if name in splits)
        set_aside = gather_quarantine([sidecar], splits)
        absent.update(one.reason for one in set_aside)
        quarantined += set_aside
    write_quarantine(stored.folder, quarantined)
    stored.absent, stored.flags = dict(absent.most_common()), dict(flags.most_common())
