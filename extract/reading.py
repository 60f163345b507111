"""Decode and preprocess a shard's rows ahead of its encoder, in a few threads.

A bounded number of utterances is held at a time, so that a fast decoder does not fill the memory
while a slow encoder works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from extract.clock import Clock
from extract.decoding import CLIP_SECONDS, ChildDecoder, Clip, decode, watched
from extract.encoders.base import Encoder, Prepared
from extract.errors import ExtractError
from extract.jobs import Job
from extract.media import MediaError
from extract.plan import Row

_AHEAD = 4  # utterances prepared ahead of the encoder, for each thread


def prepare_ahead(
    rows: Sequence[Row], encoder: Encoder, job: Job, clock: Clock
) -> Iterator[tuple[Row, Prepared | MediaError]]:
    """Yield the rows in order, each ready for the encoder or with what is wrong with it.

    Raises:
        ExtractError: a library is missing.
    """
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
