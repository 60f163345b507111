"""One task: read, encode and store one shard.

A few threads decode and preprocess ahead of the encoder, a bounded number of utterances at a time;
units are batched across utterances, always to the encoder's own batch size (the last batch is
filled up), so that nothing depends on neighbours. What comes back to the scheduler is a small
report; features go to disk and nowhere else.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.decoding import CLIP_SECONDS, ChildDecoder, Clip, decode, watched
from extract.encoders.base import Encoder, EncoderInfo, Prepared, Settings, Unit
from extract.encoders.registry import load_encoder
from extract.errors import ExtractError
from extract.media import MediaError
from extract.plan import Row, ShardPlan
from extract.shards import (
    Features,
    Identity,
    SetAside,
    Sidecar,
    shard_path,
    sidecar_path,
    write_shard,
    write_sidecar,
)

_FIRST_FILES = 16  # that all fail for one cause, which then does not lie in them
_NO_FAULT = {"no audio stream", "no video stream"}  # a corpus may well lack a modality
_AHEAD = 4  # utterances prepared ahead of the encoder, for each thread


@dataclass(frozen=True)
class Job:
    """Everything a worker needs for one shard.

    Attributes:
        identity: What the shard belongs to.
        folder: Of its feature set.
        shard: Its rows.
        info: The encoder.
        settings: Of the extraction.
        device: Where the encoder runs.
        threads: How many read ahead.
        clip_seconds: How long decoding a clip may take before it costs this process its life;
            None is for ever, for a process that is more than a worker.
        isolated: Decode in a child process, so that a clip that kills its decoder is found.
    """

    identity: Identity
    folder: Path
    shard: ShardPlan
    info: EncoderInfo
    settings: Settings
    device: str
    threads: int
    clip_seconds: float | None = None
    isolated: bool = False

    def name(self) -> str:
        """Return how messages call this shard."""
        return f"{self.identity.modality} shard {self.shard.number:05d}"


@dataclass
class ShardReport:
    """What a worker tells of a finished shard."""

    modality: str
    number: int
    utterances: int
    features: int  # utterances with at least one row
    rows: int
    size: int  # bytes
    reasons: dict[str, int]
    seconds: dict[str, float]
    pid: int
    peak_memory: int  # bytes, of the whole worker so far


@dataclass
class _Clock:
    """Seconds by phase, added up over threads."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            with self.lock:
                self.seconds[name] += time.perf_counter() - started


class _FirstFailures:
    """Stops the run when its first files all fail for one cause: a mount gone, a library broken.

    Files are counted, not utterances: one broken film may hold many of those.
    """

    def __init__(self, name: str, known_to_work: bool) -> None:
        self._name, self._over = name, known_to_work
        self._reasons: set[str] = set()
        self._files: set[str] = set()

    def success(self) -> None:
        """Note that a file is fine."""
        self._over = True

    def failure(self, file: str, reason: str) -> None:
        """Note that a file is not.

        Raises:
            ExtractError: none of the first files was, for one cause.
        """
        self._reasons.add(reason)
        self._files.add(file)
        self._over = self._over or len(self._reasons) > 1 or reason in _NO_FAULT
        if not self._over and len(self._files) >= _FIRST_FILES:
            raise ExtractError(
                f"{self._name}: the first {len(self._files)} files all failed for one cause, so "
                f"nothing was set aside: {reason} (first: {min(self._files)}); mend that and run "
                "again, or take these rows out of the table if the files are beyond use"
            )


_worked: set[str] = set()  # fingerprints of sets of which this process prepared an utterance
_loaded: dict[tuple[str, str], Encoder] = {}  # by fingerprint and device; lives with the process


@dataclass
class Encoded:
    """What became of rows: features by id, and what was set aside, flagged and counted.

    `filled` is how many units the encoder was given for each one that was meant: batches have one
    size, so the last ones are filled up.
    """

    features: dict[str, Features]
    set_aside: list[SetAside]
    flags: list[tuple[str, str]]
    counts: dict[str, dict[str, int]]
    seconds: dict[str, float]
    filled: float


def encode_shard(job: Job, on_row: Callable[[int], None] = lambda done: None) -> ShardReport:
    """Encode one shard and write it and its sidecar.

    Args:
        job: The shard and how to encode it.
        on_row: Called with the number of utterances done so far.

    Raises:
        ExtractError: the encoder does not load, the first files all fail for one cause, or the
            disk is full.
    """
    encoded = encode_rows(job, on_row)
    clock = _Clock(encoded.seconds)
    with clock.phase("write"):
        sidecar = _store(job, encoded)
    on_row(len(job.shard.rows))
    return ShardReport(
        modality=job.identity.modality,
        number=job.shard.number,
        utterances=len(job.shard.rows),
        features=len(encoded.features),
        rows=sum(sidecar.rows),
        size=sidecar.size,
        reasons=dict(Counter(one.reason for one in encoded.set_aside)),
        seconds=clock.seconds,
        pid=os.getpid(),
        peak_memory=peak_memory(),
    )


def encode_rows(
    job: Job, on_row: Callable[[int], None] = lambda done: None, batch_size: int | None = None
) -> Encoded:
    """Read and encode the rows of a shard, and store nothing.

    Args:
        job: The rows and how to encode them.
        on_row: Called with the number of utterances done so far.
        batch_size: In place of the encoder's own; only where values do not matter.

    Raises:
        ExtractError: the encoder does not load, or the first files all fail for one cause.
    """
    clock = _Clock()
    rows = job.shard.rows
    set_aside = {row.id: row.absent for row in rows if row.absent is not None}
    encoded = Encoded({}, [], [], {}, clock.seconds, 1.0)
    present = [row for row in rows if row.absent is None]
    if present:
        with clock.phase("load"):
            encoder = _encoder(job)
        fingerprint = job.identity.fingerprint
        first = _FirstFailures(job.name(), fingerprint in _worked)
        batches = _Batches(encoder, clock, job.info.stored, batch_size)
        for done, (row, prepared) in enumerate(_prepare_ahead(present, encoder, job, clock)):
            if isinstance(prepared, MediaError):
                set_aside[row.id] = SetAside(row.id, row.file, prepared.stage, prepared.reason)
                first.failure(row.file, prepared.reason)
            else:
                first.success()
                _worked.add(fingerprint)
                encoded.flags += [(row.id, flag) for flag in prepared.flags]
                if prepared.counts:
                    encoded.counts[row.id] = dict(prepared.counts)
                batches.add(row.id, prepared)
            on_row(len(rows) - len(present) + done + 1)
        encoded.features = batches.finish()
        encoded.filled = batches.filled()
        for row in present:
            found = encoded.features.get(row.id)
            if found is not None and not np.isfinite(found.value).all():
                del encoded.features[row.id]
                reason = "the encoder gave a value that is not finite"
                set_aside[row.id] = SetAside(row.id, row.file, "encode", reason)
    encoded.set_aside = list(set_aside.values())
    return encoded


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kibibytes on Linux


def _encoder(job: Job) -> Encoder:
    key = (job.identity.fingerprint, job.device)
    if key not in _loaded:
        # The weights were found when the run was planned: no library shall ask a hub again.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch

        # One thread a worker, whatever their number: sums are then always added in one order.
        torch.set_num_threads(1)
        _loaded[key] = load_encoder(job.info, job.device)
    return _loaded[key]


def _prepare_ahead(
    rows: Sequence[Row], encoder: Encoder, job: Job, clock: _Clock
) -> Iterator[tuple[Row, Prepared | MediaError]]:
    """Yield the rows in order, prepared by threads a bounded number ahead."""
    child = ChildDecoder(job.clip_seconds or CLIP_SECONDS) if job.isolated else None
    decoder = child.decode if child else decode
    threads = 1 if child else job.threads
    patience = None if child else job.clip_seconds  # a child has a watchdog of its own

    def prepare(row: Row) -> Prepared | MediaError:
        try:
            with clock.phase("decode"):
                medium = _read(row, job, decoder)
            with clock.phase("preprocess"):
                return encoder.prepare(medium)
        except MediaError as error:
            return error
        except ImportError as error:
            raise ExtractError(f"{job.name()}: a library is missing: {error}") from error

    waiting: deque[tuple[Row, Future[Prepared | MediaError]]] = deque()
    upcoming = iter(rows)
    with ThreadPoolExecutor(threads, "prepare") as pool:
        try:
            while True:
                while len(waiting) < threads * _AHEAD and (row := next(upcoming, None)):
                    waiting.append((row, pool.submit(prepare, row)))
                if not waiting:
                    return
                row, future = waiting.popleft()
                # The first in the queue is being prepared, so all of its wait is its own.
                with clock.phase("wait"), watched(None if future.done() else patience):
                    prepared = future.result()
                yield row, prepared
        finally:
            for _, future in waiting:
                future.cancel()
            if child:
                child.close()


def _read(row: Row, job: Job, decoder: Callable[[Clip], object]) -> object:
    if job.info.medium == "text":
        return row.text
    assert row.path is not None  # rows without a file are never read
    settings = job.settings
    return decoder(
        Clip(job.info.medium, row.path, row.start, row.end, settings.max_seconds, settings.fps)
    )


class _Batches:
    """Collects units of equal shape and encodes them by full batches."""

    def __init__(
        self, encoder: Encoder, clock: _Clock, stored: str, batch_size: int | None = None
    ) -> None:
        self._encoder, self._clock, self._stored = encoder, clock, stored
        self._size = batch_size or encoder.batch_size
        self._meant = self._given = 0  # units
        self._open: dict[object, list[tuple[str, int, Unit]]] = defaultdict(list)
        self._rows: dict[str, list[NDArray[Any] | None]] = {}
        self._time: dict[str, NDArray[np.float32]] = {}

    def add(self, name: str, prepared: Prepared) -> None:
        """Take one utterance's units; encode what fills a batch."""
        self._rows[name] = [None] * len(prepared.units)
        self._time[name] = prepared.time
        for place, unit in enumerate(prepared.units):
            batch = self._open[unit.shape()]
            batch.append((name, place, unit))
            if len(batch) == self._size:
                self._encode(batch)

    def finish(self) -> dict[str, Features]:
        """Encode what is left and return every utterance's features, as they are stored."""
        for batch in self._open.values():
            if batch:
                self._encode(batch)
        return {
            name: Features(
                np.concatenate([piece for piece in pieces if piece is not None]), self._time[name]
            )
            for name, pieces in self._rows.items()
        }

    def filled(self) -> float:
        """Return how many units were encoded for each one that was meant."""
        return self._given / self._meant if self._meant else 1.0

    def _encode(self, batch: list[tuple[str, int, Unit]]) -> None:
        units = [unit for _, _, unit in batch]
        self._meant += len(units)
        units += [units[0]] * (self._size - len(units))
        self._given += len(units)
        with self._clock.phase("encode"):
            results = self._encoder.encode(units)
        with np.errstate(over="ignore"):  # an overflow becomes infinite, and is set aside as such
            for (name, place, _), rows in zip(batch, results, strict=False):
                self._rows[name][place] = rows.astype(self._stored)
        batch.clear()


def _store(job: Job, encoded: Encoded) -> Sidecar:
    nothing = Features(np.zeros((0, job.info.dim), job.info.stored), np.zeros(0, np.float32))
    ids = [row.id for row in job.shard.rows]
    features = [encoded.features.get(name, nothing) for name in ids]
    path = shard_path(job.folder, job.shard.number)
    try:
        sha256, size = write_shard(
            path, job.identity, ids, features, dim=job.info.dim, dtype=job.info.stored
        )
        sidecar = Sidecar(
            dataset=job.identity.dataset,
            modality=job.identity.modality,
            fingerprint=job.identity.fingerprint,
            sha256=sha256,
            size=size,
            ids=ids,
            digests=[row.digest for row in job.shard.rows],
            rows=[len(one.value) for one in features],
            quarantined=encoded.set_aside,
            flags=encoded.flags,
            counts=encoded.counts,
            seconds={name: round(value, 4) for name, value in encoded.seconds.items()},
        )
        write_sidecar(sidecar_path(job.folder, job.shard.number), sidecar)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "no space is left on the disk" if full else str(error)
        remedy = "free some space" if full else "see to it"
        raise ExtractError(
            f"{path}: cannot be written: {cause}; {remedy} and run the same command again, which "
            "goes on after the shards that are done"
        ) from error
    return sidecar
