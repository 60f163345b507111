"""What the engine and an encoder know of each other.

An encoder turns one utterance's medium (text, samples or pictures) into units of fixed shapes (a
padded text, a window of log-mel, a picture), and a batch of equal shapes into rows. The engine
batches units across utterances, always to the same size, so that what a unit becomes never depends
on what it was batched with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Medium = Literal["text", "audio", "frames"]

RANDOM_MARKER = "RANDOM_WEIGHTS"  # a file of this name beside the weights says that they are random


@dataclass(frozen=True)
class Settings:
    """Settings of the extraction that change values, and so are part of fingerprints."""

    max_seconds: float = 30.0
    fps: float = 4.0
    dtype: str = "float32"  # in which the encoders compute


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder found on disk, described without loading it.

    Attributes:
        spec: The spec as the user gave it.
        kind: Which code runs it; part of the fingerprint.
        medium: What it is fed with.
        slug: A short name for folders.
        location: Path of the directory or file that is loaded.
        digest: Hex SHA-256 over the weights and everything that goes with them.
        dim: Width of a row.
        rows_per_second: Rows a second, None for text.
        random_weights: Whether the weights are marked as random.
        preprocessing: Every other setting that changes a value; part of the fingerprint.
        dtype: In which it computes.
        stored: In which its rows are stored.
        detector: What finds faces where it is shown those: `haar`, or the path of YuNet's file.
    """

    spec: str
    kind: str
    medium: Medium
    slug: str
    location: str
    digest: str
    dim: int
    rows_per_second: float | None
    random_weights: bool
    preprocessing: Mapping[str, Any]
    dtype: str
    stored: Literal["float16", "float32"] = "float16"
    detector: str | None = None

    def ingredients(self) -> dict[str, Any]:
        """Return what goes into the fingerprint: all that changes a value, and nothing else."""
        return {
            "kind": self.kind,
            "weights": self.digest,
            "dim": self.dim,
            "dtype": self.dtype,
            **({} if self.dtype == "float32" else {"autocast": True}),
            "preprocessing": dict(self.preprocessing),
        }


@dataclass(frozen=True)
class Unit:
    """One row of a batch: its input arrays, and how many of the output's rows are meant."""

    arrays: tuple[NDArray[Any], ...]
    rows: int

    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Return what units of one batch have in common."""
        return tuple(array.shape for array in self.arrays)


@dataclass(frozen=True)
class Prepared:
    """One utterance, ready for the encoder: its units in order and the time of every row.

    `flags` say what is unusual about it, `counts` what was counted in it.
    """

    units: Sequence[Unit]
    time: NDArray[np.float32]
    flags: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class Encoder(Protocol):
    """A loaded encoder."""

    def batch_size(self, unit: Unit) -> int:
        """Return how many units of that shape make a batch; it depends on nothing else."""

    def prepare(self, medium: Any) -> Prepared:
        """Turn a text, an `Audio` or `Frames` into units; called from several threads."""

    def encode(self, units: Sequence[Unit]) -> list[NDArray[np.float32]]:
        """Encode a batch of units of one shape; return [rows, dim] for each."""
