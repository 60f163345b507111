"""What an encoder costs on this machine, measured on a few of the rows that are to be encoded."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from extract.encoders.base import EncoderInfo, Settings
from extract.features import fingerprint_of
from extract.jobs import Job
from extract.media import declared_seconds
from extract.plan import Row, ShardPlan
from extract.shards import Identity
from extract.worker import Encoded, encode_rows

_SECONDS = 5.0  # that measuring goes on for one encoder, once it is loaded
_CHUNKS = {"text": (8, 32), "audio": (8, 1), "frames": (8, 1)}  # how many chunks, rows in each
_BYTES_OF_A_TIME = 4
_PROBES = 64  # files opened to learn how long the others are


@dataclass(frozen=True)
class Calibration:
    """What one utterance costs, on average.

    Attributes:
        utterances: How many were measured.
        bytes: Of features.
        seconds_reading: To decode and preprocess it, in one thread.
        seconds_encoding: Of the encoder.
        seconds_loading: To load the encoder, once.
    """

    utterances: int
    bytes: float
    seconds_reading: float
    seconds_encoding: float
    seconds_loading: float

    def seconds(self, shards: Iterable[int], device: str, workers: int, threads: int) -> float:
        """Return how long shards of so many utterances take, each next one by an idle worker.

        On a CPU, reading and encoding share a worker's core; on a GPU they go on side by side.
        """
        reading, encoding = self.seconds_reading, self.seconds_encoding
        each = reading + encoding if device == "cpu" else max(reading / threads, encoding)
        busy = [0] * workers  # utterances by worker
        for utterances in shards:
            heapq.heapreplace(busy, busy[0] + utterances)
        return self.seconds_loading + max(busy) * each


def draw_sample(info: EncoderInfo, rows: Sequence[Row]) -> list[Row]:
    """Return a few of the rows to measure an encoder on."""
    count, size = _CHUNKS[info.medium]
    return _spread([row for row in rows if row.absent is None], count * size)


def calibrate(
    info: EncoderInfo, settings: Settings, sample: Sequence[Row], device: str
) -> Calibration | None:
    """Load an encoder and encode a sample of rows; None where none of them can be encoded.

    Raises:
        ExtractError: the encoder does not load.
    """
    if not sample:
        return None
    size = _CHUNKS[info.medium][1]
    identity = Identity("", "", fingerprint_of(info.ingredients()))
    job = Job(identity, Path(), ShardPlan(0, ()), info, settings, device, 1)
    # A CPU takes as long for each unit of a batch; a few clips would not fill one.
    batch_size = 1 if device == "cpu" and info.medium != "text" else None

    def encode(part: Sequence[Row]) -> Encoded:
        return encode_rows(replace(job, shard=ShardPlan(0, tuple(part))), batch_size=batch_size)

    loading = encode(sample[:1]).seconds.get("load", 0.0)  # and warms up
    measured, held, reading, encoding = 0, 0, 0.0, 0.0
    began = time.monotonic()
    for begin in range(0, len(sample), size):
        encoded = encode(sample[begin : begin + size])
        measured += len(encoded.features)
        for one in encoded.features.values():
            held += one.value.nbytes + _BYTES_OF_A_TIME * len(one.time)
        reading += encoded.seconds.get("decode", 0.0) + encoded.seconds.get("preprocess", 0.0)
        encoding += encoded.seconds.get("encode", 0.0) / encoded.filled
        if time.monotonic() - began > _SECONDS:
            break
    if not measured:
        return None
    return Calibration(measured, held / measured, reading / measured, encoding / measured, loading)


def estimate_seconds(rows: Sequence[Row], max_seconds: float) -> tuple[float, int]:
    """Return how many seconds of media rows hold, and from how many files that was estimated.

    Spans that the table gives are added up; of whole files, some are opened and stand for all.
    """
    known, whole = 0.0, []
    for row in rows:
        if row.absent is not None or row.path is None:
            continue
        if row.end is not None:
            known += min(max(row.end - (row.start or 0.0), 0.0), max_seconds)
        else:
            whole.append(row)
    lengths = []
    for row in _spread(whole, _PROBES):
        length = declared_seconds(row.path) if row.path is not None else None
        if length is not None:
            lengths.append(min(max(length - (row.start or 0.0), 0.0), max_seconds))
    if lengths:
        known += len(whole) * sum(lengths) / len(lengths)
    return known, len(lengths)


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` rows, evenly spread."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[place] for place in places]
