"""One task: read, encode and store one shard.

A few threads decode and preprocess ahead of the encoder; units are batched across utterances. What
comes back to the scheduler is a small report; features go to disk and nowhere else.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from extract.batches import Batches
from extract.clock import Clock
from extract.encoders.base import Encoder
from extract.encoders.registry import load_encoder
from extract.errors import ExtractError
from extract.first_failures import FirstFailures
from extract.jobs import Job, ShardReport
from extract.media import MediaError
from extract.reading import prepare_ahead
from extract.shards import (
    Features,
    SetAside,
    Sidecar,
    shard_path,
    sidecar_path,
    write_shard,
    write_sidecar,
)

_worked: set[str] = set()  # fingerprints of sets of which this process prepared an utterance
_loaded: dict[tuple[str, str], Encoder] = {}  # by fingerprint and device; lives with the process


@dataclass
class Encoded:
    """What became of rows: features by id, and what was set aside, flagged and counted.

    `filled` is how many units the encoder was given for each one that was meant: batches have one
    size, so the last ones are filled up. `halvings` is how often a batch was halved for lack of
    memory: rows then agree with those of whole batches to rounding, not to the bit.
    """

    features: dict[str, Features]
    set_aside: list[SetAside]
    flags: list[tuple[str, str]]
    counts: dict[str, dict[str, int]]
    seconds: dict[str, float]
    filled: float
    halvings: int = 0


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
    clock = Clock(encoded.seconds)
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
        halvings=encoded.halvings,
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
    clock = Clock()
    rows = job.shard.rows
    set_aside = {row.id: row.absent for row in rows if row.absent is not None}
    encoded = Encoded({}, [], [], {}, clock.seconds, 1.0)
    present = [row for row in rows if row.absent is None]
    if present:
        with clock.phase("load"):
            encoder = _encoder(job)
        fingerprint = job.identity.fingerprint
        first = FirstFailures(job.name(), fingerprint in _worked)
        batches = Batches(encoder, clock, job.info.stored, batch_size)
        for done, (row, prepared) in enumerate(prepare_ahead(present, encoder, job, clock)):
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
        encoded.filled, encoded.halvings = batches.filled(), batches.halvings
        if len(batches.too_large) > 1 and not encoded.features:
            raise next(iter(batches.too_large.values()))  # it does not lie in the clips
        for row in present:
            if row.id in batches.too_large:
                reason = "does not fit in memory, not even alone"
                set_aside[row.id] = SetAside(row.id, row.file, "encode", reason)
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
        # Single precision means that, also in a GPU's convolutions.
        torch.backends.cudnn.allow_tf32 = False
        _loaded[key] = load_encoder(job.info, job.device)
    return _loaded[key]


def _device_name(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    return torch.cuda.get_device_name(device)


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
            device=_device_name(job.device),
            halvings=encoded.halvings,
        )
        write_sidecar(sidecar_path(job.folder, job.shard.number), sidecar)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "no space is left on the disk" if full else (error.strerror or str(error)).lower()
        remedy = "free some space" if full else "see to it"
        raise ExtractError(
            f"{path}: cannot be written: {cause}; {remedy} and run the same command again, which "
            "goes on after the shards that are done"
        ) from error
    return sidecar
