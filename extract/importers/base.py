"""What every reader of imported features hands over, whatever the file's form.

A file gives parts: one modality of (mostly) one split, as ids and a way to read one utterance's
rows. Nothing is read before it is asked for, so memory stays at a shard's worth however large the
file is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.layouts.base import SPLIT_ALIASES

MODALITY_ALIASES = {"vision": "visual", "video": "visual"}
"""Other names that files use for a modality."""

MODALITIES = ("text", "audio", "visual")

SPLIT_WORDS = {
    **{name: name for name in ("train", "valid", "test", "unlabelled")},
    **SPLIT_ALIASES,
}
"""Every name of a split, and which split it is."""


class Array(Protocol):
    """What numpy arrays, HDF5 datasets and arrays inside a pickle have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __getitem__(self, index: int | EllipsisType) -> NDArray[Any]:
        """Return one entry of the first axis, or everything for `...`."""


@dataclass(frozen=True)
class Part:
    """One modality of some utterances of a file.

    Attributes:
        origin: What to call it in a message: the file, and the place in it.
        modality: `text`, `audio`, `visual` or another name.
        split: The split that the file says it is, None where it does not say.
        names: How the file calls each utterance; None where it only keeps their order.
        labels: The file's own labels or scores, for comparison; None where it has none.
        dim: Columns of the features.
        dtype: Type of the values.
        longest: Most rows that one utterance can have.
        read: Return utterance number i, `[rows, dim]`.
        size: How many utterances there are.
    """

    origin: str
    modality: str
    split: str | None
    names: Sequence[str] | None
    labels: Sequence[str | float] | None
    dim: int
    dtype: np.dtype[Any]
    longest: int
    read: Callable[[int], NDArray[Any]]
    size: int


def feature_dtype(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Return the type to store: floats as they are, integers as the float that holds them.

    Raises:
        ExtractError: the values are no numbers, or floats of a size that few machines know.
    """
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return dtype.newbyteorder("=")
    if dtype.kind in "iub":
        return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    raise ExtractError(f"{where}: values of type {dtype} are no features; expected numbers")


def padded_part(
    origin: str,
    modality: str,
    split: str | None,
    array: Array,
    *,
    names: Sequence[str] | None,
    labels: Sequence[str | float] | None = None,
    lengths: NDArray[np.int64] | None = None,
) -> Part:
    """Make a part of one array for all utterances: `[count, time, dim]`, or `[count, dim]`.

    Args:
        origin: What to call it.
        modality: Which modality it is.
        split: Which split it is.
        array: The features.
        names: How the file calls each utterance.
        labels: The file's own labels.
        lengths: Rows of each utterance that are no padding; `[count]`.

    Raises:
        ExtractError: the shapes do not fit.
    """
    where = f"{origin}, {modality}"
    if len(array.shape) not in (2, 3) or not array.shape[-1]:
        raise ExtractError(f"{where}: an array of shape {array.shape}; expected 2 or 3 axes")
    count = array.shape[0]
    for what, found in (("ids", names), ("labels", labels), ("lengths", lengths)):
        if found is not None and len(found) != count:
            raise ExtractError(f"{where}: {count:,} utterances, but {len(found):,} {what}")
    longest = array.shape[1] if len(array.shape) == 3 else 1

    def read(index: int) -> NDArray[Any]:
        rows = array[index].reshape(longest, -1)
        return rows if lengths is None else unpad(rows, int(lengths[index]))

    return Part(
        origin=origin,
        modality=modality,
        split=split,
        names=names,
        labels=labels,
        dim=array.shape[-1],
        dtype=feature_dtype(array.dtype, where),
        longest=longest,
        read=read,
        size=count,
    )


def listed_part(
    origin: str,
    modality: str,
    split: str | None,
    arrays: Sequence[Array],
    *,
    names: Sequence[str] | None,
    labels: Sequence[str | float] | None = None,
    lengths: Sequence[int] | None = None,
) -> Part:
    """Make a part of one array for each utterance: `[time, dim]`, or `[dim]` for a single row.

    Raises:
        ExtractError: there is none, or their shapes or types differ.
    """
    where = f"{origin}, {modality}"
    if not arrays:
        raise ExtractError(f"{where}: no utterances")
    dims, dtypes = {array.shape[-1:] for array in arrays}, {array.dtype for array in arrays}
    if len(dims) != 1 or any(len(array.shape) not in (1, 2) for array in arrays):
        shapes = sorted({array.shape[-2:] for array in arrays})[:4]
        raise ExtractError(
            f"{where}: utterances of unlike shapes ({', '.join(map(str, shapes))}, ...); "
            "expected [time, dim] or [dim] with one dim"
        )

    def read(index: int) -> NDArray[Any]:
        rows = np.atleast_2d(arrays[index][...])
        return rows if lengths is None else unpad(rows, lengths[index])

    return Part(
        origin=origin,
        modality=modality,
        split=split,
        names=names,
        labels=labels,
        dim=dims.pop()[0],
        dtype=np.result_type(*(feature_dtype(dtype, where) for dtype in dtypes)),
        longest=max(array.shape[0] if len(array.shape) == 2 else 1 for array in arrays),
        read=read,
        size=len(arrays),
    )


def unpad(rows: NDArray[Any], length: int) -> NDArray[Any]:
    """Return the first `length` rows, or the last where the padding stands in front.

    Padding stands in front when rows behind `length` hold something and as many rows at the
    beginning hold nothing.
    """
    length = min(max(length, 0), len(rows))
    padding = len(rows) - length
    if rows[length:].any() and not rows[:padding].any():
        return rows[padding:]
    return rows[:length]


def split_of_file(path: Path) -> str | None:
    """Return the split that a file's name speaks of (`meld_dev_audio.csv`), None if none or two."""
    found = {SPLIT_WORDS[word] for word in words_of(path) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def words_of(path: Path) -> list[str]:
    """Return the words of a file's name."""
    return [word for word in re.split(r"[^a-z0-9]+", path.stem.lower()) if word]


def check_name(name: str, where: str) -> str:
    """Return an utterance's name as it is.

    Raises:
        ExtractError: it is empty, or would lead to another folder if it named a file.
    """
    if not name or name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts:
        raise ExtractError(f"{where}: refused the id {name!r:.80}, which is empty or a path")
    return name
