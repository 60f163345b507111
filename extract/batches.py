"""Batches across utterances: units of one shape, always as many as the encoder wants of it.

A last batch is filled up with copies, so that nothing depends on neighbours. A batch that does not
fit in memory is halved until it does, and so are those that follow it; rows then agree with those
of whole batches to rounding and no longer to the bit, so it is counted and recorded. An utterance
with a unit that does not fit even alone is left out and named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.clock import Clock
from extract.encoders.base import Encoder, Prepared, Unit
from extract.errors import is_out_of_memory
from extract.shards import Features


class Batches:
    """Collects units of equal shape and encodes them by full batches.

    Args:
        encoder: What encodes them.
        clock: Takes the time of that.
        stored: The dtype in which rows are kept.
        batch_size: In place of the encoder's own; only where values do not matter.

    Attributes:
        halvings: How often a batch was halved.
        too_large: Utterances with a unit that does not fit in memory, why by id.
    """

    def __init__(
        self, encoder: Encoder, clock: Clock, stored: str, batch_size: int | None = None
    ) -> None:
        self._encoder, self._clock, self._stored = encoder, clock, stored
        self._size = batch_size
        self._meant = self._given = 0  # units
        self._open: dict[object, list[tuple[str, int, Unit]]] = defaultdict(list)
        self._fits: dict[object, int] = {}  # units of a shape at once, where it was halved
        self._rows: dict[str, list[NDArray[Any] | None]] = {}
        self._time: dict[str, NDArray[np.float32]] = {}
        self.halvings = 0
        self.too_large: dict[str, RuntimeError] = {}

    def add(self, name: str, prepared: Prepared) -> None:
        """Take one utterance's units; encode what fills a batch."""
        self._rows[name] = [None] * len(prepared.units)
        self._time[name] = prepared.time
        for place, unit in enumerate(prepared.units):
            batch = self._open[unit.shape()]
            batch.append((name, place, unit))
            if len(batch) == self._size_for(unit):
                self._encode(batch)

    def finish(self) -> dict[str, Features]:
        """Encode what is left and return the features of all that fit, as they are stored."""
        for batch in self._open.values():
            if batch:
                self._encode(batch)
        return {
            name: Features(
                np.concatenate([piece for piece in pieces if piece is not None]), self._time[name]
            )
            for name, pieces in self._rows.items()
            if name not in self.too_large
        }

    def filled(self) -> float:
        """Return how many units were encoded for each one that was meant."""
        return self._given / self._meant if self._meant else 1.0

    def _size_for(self, unit: Unit) -> int:
        return self._size or self._encoder.batch_size(unit)

    def _encode(self, batch: list[tuple[str, int, Unit]]) -> None:
        units = [unit for _, _, unit in batch]
        self._meant += len(units)
        units += [units[0]] * (self._size_for(units[0]) - len(units))
        self._given += len(units)
        with self._clock.phase("encode"):
            results = self._encode_what_fits(units)
        with np.errstate(over="ignore"):  # an overflow becomes infinite, and is set aside as such
            for (name, place, _), rows in zip(batch, results, strict=False):
                if isinstance(rows, RuntimeError):
                    self.too_large[name] = rows
                else:
                    self._rows[name][place] = rows.astype(self._stored)
        batch.clear()

    def _encode_what_fits(self, units: Sequence[Unit]) -> list[NDArray[np.float32] | RuntimeError]:
        """Encode a batch, in as many parts as memory makes necessary; the error where not alone."""
        shape = units[0].shape()
        results: list[NDArray[np.float32] | RuntimeError] = []
        while len(results) < len(units):
            size = self._fits.get(shape, len(units))
            try:
                results += self._encoder.encode(units[len(results) : len(results) + size])
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    results.append(error.with_traceback(None))  # which would hold the memory
                    continue
            # Only here, after the error and all that its traceback held are gone, is memory free.
            self._fits[shape] = -(-size // 2)
            self.halvings += 1
        return results
