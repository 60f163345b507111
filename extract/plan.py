"""What is to be encoded, and in which shard: decided before any work starts.

A shard's members are fixed by the plan, not by who worked when, so an interrupted run resumed
later writes the same files as one that was left alone. Members of finished shards stay together,
and those of a damaged one as long as either of its two files still names them; new utterances fill
new shards in the table's order; a shard is written anew only when the input of one of its members
changed (a digest in the sidecar says so).
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from extract.encoders.base import EncoderInfo, Settings
from extract.errors import ExtractError
from extract.files import sha256_of
from extract.paths import Folder
from extract.shards import (
    MAX_SHARD_BYTES,
    SetAside,
    Shard,
    Sidecar,
    find_done,
    read_sidecar,
    shard_numbers,
    shard_path,
    sidecar_path,
)
from extract.table import Utterance

ABSENT = "absent"
_WHOLE = f" {None} {None}"  # a span without start and end, as digests name it
Why = Literal["new", "changed", "retried", "fresh"]


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance's input for one modality, or the reason why there is none."""

    id: str
    split: str
    digest: str
    text: str | None = None
    root: Path | None = None  # of `file`; None where there is none to be read
    file: str = ""  # as the table names it
    start: float | None = None
    end: float | None = None
    absent: SetAside | None = None

    @property
    def path(self) -> Path | None:
        """The file to be read."""
        return None if self.root is None else self.root / self.file


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written, and why.

    Attributes:
        number: Its number.
        rows: Its members.
        why: `new` (never finished), `changed` (the input of a member changed), `retried` (it holds
            quarantined rows that are to be tried again) or `fresh` (all is to be done again).
        touched: Members for which that is so; the others are encoded along with them.
    """

    number: int
    rows: tuple[Row, ...]
    why: Why = "new"
    touched: int = 0


@dataclass(frozen=True)
class Plan:
    """The shards to be written, and of those that are done and stay the number of utterances."""

    todo: tuple[ShardPlan, ...]
    done: dict[int, int]

    def rows_todo(self) -> int:
        """Return how many utterances are to be encoded."""
        return sum(len(shard.rows) for shard in self.todo)

    def rows_done(self) -> int:
        """Return how many utterances are in finished shards."""
        return sum(self.done.values())


def text_rows(utterances: Iterable[Utterance]) -> list[Row]:
    """Return the text input of each utterance."""
    rows = []
    for one in utterances:
        if one.text is None or not one.text.strip():
            reason = "no transcript" if one.text is None else "empty transcript"
            absent = SetAside(one.id, "", "table", reason)
            rows.append(Row(one.id, one.split, ABSENT, absent=absent))
        else:
            digest = hashlib.sha256(one.text.encode()).hexdigest()
            rows.append(Row(one.id, one.split, digest, text=one.text))
    return rows


class MediaFiles:
    """The files of a corpus, each looked at once, however many streams and spans it holds.

    Args:
        root: Folder that the table's paths are relative to.
        hash_media: Tell files apart by contents instead of size and modification time.
        allow_symlinks: Follow links that lead out of `root`.
    """

    def __init__(
        self, root: Path, *, hash_media: bool = False, allow_symlinks: bool = False
    ) -> None:
        self._root, self._hash = root, hash_media
        self._folder = Folder(root, allow_symlinks=allow_symlinks)
        self._digests: dict[str, str] = {}  # of whole files: streams of one share the string
        self._troubles: dict[str, str] = {}

    def rows(self, utterances: Iterable[Utterance], stream: Literal["audio", "video"]) -> list[Row]:
        """Return the file and span of each utterance's `audio` or `video`."""
        return [self._row(one, one.audio if stream == "audio" else one.video) for one in utterances]

    def _row(self, one: Utterance, file: str | None) -> Row:
        if file is None:
            absent = SetAside(one.id, "", "table", "no file in the table")
            return Row(one.id, one.split, ABSENT, absent=absent)
        if file not in self._digests and file not in self._troubles:
            self._look_at(file)
        if (trouble := self._troubles.get(file)) is not None:
            absent = SetAside(one.id, file, "open", trouble)
            return Row(one.id, one.split, ABSENT, file=file, absent=absent)
        digest = self._digests[file]
        if one.start is not None or one.end is not None:
            digest = f"{digest.removesuffix(_WHOLE)} {one.start} {one.end}"
        return Row(one.id, one.split, digest, None, self._root, file, one.start, one.end)

    def _look_at(self, file: str) -> None:
        """Note what tells a file's contents, or why it cannot be read."""
        try:
            status = self._folder.status(file)
            if status is None:
                self._troubles[file] = "no such file"
            elif not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
                folder = stat.S_ISDIR(status.st_mode)
                self._troubles[file] = "a folder" if folder else "not a regular file"
            elif self._hash:
                self._digests[file] = f"{sha256_of(self._root / file)}{_WHOLE}"
            else:
                self._digests[file] = f"{status.st_size} {status.st_mtime_ns}{_WHOLE}"
        except FileNotFoundError:
            self._troubles[file] = "no such file"
        except (ExtractError, OSError) as error:
            self._troubles[file] = str(error)


def rows_in_a_shard(wanted: int, info: EncoderInfo, settings: Settings, rows: list[Row]) -> int:
    """Return how many rows a shard takes, so that even the longest fit the size limit.

    One number for the whole set: chunks of one size line up again when a run is resumed.
    """
    longest = 1.0
    for row in rows:
        if info.rows_per_second is None:
            longest = max(longest, len((row.text or "").encode()) + 2)
        else:
            known = row.start is not None and row.end is not None
            seconds = (row.end or 0.0) - (row.start or 0.0) if known else settings.max_seconds
            longest = max(longest, min(seconds, settings.max_seconds) * info.rows_per_second)
    return max(
        1,
        min(wanted, int(MAX_SHARD_BYTES // (longest * info.dim * np.dtype(info.stored).itemsize))),
    )


def make_plan(
    folder: Path,
    fingerprint: str,
    rows: Sequence[Row],
    rows_per_shard: int,
    *,
    splits: Collection[str] = (),
    limit: int | None = None,
    retry_quarantined: bool = False,
    fresh: bool = False,
) -> Plan:
    """Decide which shards of a feature set are to be written.

    Args:
        folder: The feature set's folder; it need not exist.
        fingerprint: Shards of another fingerprint are not done.
        rows: Every row of the table, in its order.
        rows_per_shard: Size of new shards.
        splits: Only shards that hold a row of these splits; empty means all.
        limit: Only the first shards of the full plan, until they hold this many rows.
        retry_quarantined: Write shards anew that hold a quarantined row whose file is there.
        fresh: Plan as if nothing were done.
    """
    by_id = {row.id: row for row in rows}
    finished: dict[int, _Finished] = {}
    members: dict[int, tuple[Row, ...]] = {}
    # One sidecar at a time: those of a million rows would fill the memory.
    for number in () if fresh else shard_numbers(folder):
        sidecar = find_done(folder, number, fingerprint)
        if sidecar is not None:
            finished[number] = _Finished(
                len(sidecar.ids), _changed(sidecar, by_id), _to_retry(sidecar, by_id)
            )
            members[number] = tuple([by_id[name] for name in sidecar.ids if name in by_id])
    placed = {row.id for rows_of_shard in members.values() for row in rows_of_shard}
    for number in () if fresh else begun_numbers(folder):
        if number not in finished:
            left = [name for name in _members_left(folder, number, fingerprint) if name in by_id]
            if left and placed.isdisjoint(left):
                members[number] = tuple([by_id[name] for name in left])
                placed.update(left)
    rest = [row for row in rows if row.id not in placed]
    taken_numbers = frozenset(members)
    free = (number for number in count() if number not in taken_numbers)
    for begin in range(0, len(rest), rows_per_shard):
        members[next(free)] = tuple(rest[begin : begin + rows_per_shard])

    todo: list[ShardPlan] = []
    done: dict[int, int] = {}
    taken = 0
    for number in sorted(members):
        held = members[number]
        if limit is not None and taken >= limit:
            break
        if not held or (splits and not any(row.split in splits for row in held)):
            continue
        taken += len(held)
        before = finished.get(number)
        if before is None:
            todo.append(ShardPlan(number, held, "fresh" if fresh else "new", len(held)))
        elif before.changed:
            todo.append(ShardPlan(number, held, "changed", before.changed))
        elif retry_quarantined and before.to_retry:
            todo.append(ShardPlan(number, held, "retried", before.to_retry))
        else:
            done[number] = before.utterances
    return Plan(tuple(todo), done)


@dataclass(frozen=True)
class _Finished:
    """A finished shard: how many members it has, have changed, and could be tried again."""

    utterances: int
    changed: int
    to_retry: int


def begun_numbers(folder: Path) -> list[int]:
    """Return the numbers of the shards of which anything is there."""
    stems = {path.stem for pattern in ("*.h5", "*.json") for path in folder.glob(pattern)}
    return sorted(int(stem) for stem in stems if stem.isdigit())


def _members_left(folder: Path, number: int, fingerprint: str) -> list[str]:
    """Return the ids of a shard that is damaged or half gone, so that it is written as it was.

    Either of its files says; none where both are gone or beyond reading.
    """
    try:
        sidecar = read_sidecar(sidecar_path(folder, number))
        if sidecar.fingerprint == fingerprint:
            return sidecar.ids
    except ExtractError:
        pass  # the shard itself may say
    try:
        with Shard(shard_path(folder, number), fingerprint) as shard:
            return shard.ids
    except ExtractError:
        return []


def _changed(sidecar: Sidecar, by_id: dict[str, Row]) -> int:
    """Return how many members have another input than when the shard was written."""
    before = zip(sidecar.ids, sidecar.digests, strict=True)
    return sum(name in by_id and by_id[name].digest != digest for name, digest in before)


def _to_retry(sidecar: Sidecar, by_id: dict[str, Row]) -> int:
    """Return how many quarantined members have something to be encoded."""
    return sum(one.id in by_id and by_id[one.id].absent is None for one in sidecar.quarantined)
