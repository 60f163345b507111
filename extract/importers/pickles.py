"""Feature pickles: MMSA's dict of splits, and MSE-Adapter's list of utterances.

MMSA: `{train, valid, test}`, each with `id` (`video$_$clip`), `text`, `audio`, `vision`
(`[count, time, dim]`), `audio_lengths`, `vision_lengths`, `text_bert` (`[count, 3, time]`: token
ids, mask, segments) and `regression_labels`. MSE-Adapter: a list of `{label, features: {audio,
video, text, audio_len, video_len}}`, one file a split, without ids; its text is the transcript.

The file is never unpickled (see `pickle_scan`); arrays are read from their place in it.

Sources: https://github.com/thuiar/MMSA (`data_loader.py`) and
https://github.com/AZYoung233/MSE-Adapter (`data/load_data.py`).
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import extract
from extract.errors import ExtractError
from extract.importers.base import (
    MODALITIES,
    MODALITY_ALIASES,
    SPLIT_WORDS,
    Array,
    Part,
    listed_part,
    padded_part,
    split_of_file,
)

_SCAN_MEGABYTES = 512
_SCAN_SECONDS = 600  # a file of 13.7 GB takes a fraction of a second
_NO_FEATURES = ("text_bert", "raw_text", "id", "annotations", "mask")


@dataclass(frozen=True)
class StoredArray:
    """An array that lies in a file; values are read when an entry is asked for.

    Plain reads, not a memory map: pages of a map count as the process's memory until the system
    wants them back.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    def __getitem__(self, index: int | EllipsisType) -> NDArray[Any]:
        """Return one entry of the first axis, or everything for `...`."""
        if isinstance(index, EllipsisType):
            values = np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset)
            return values.reshape(self.shape, order=self.order)
        if self.order == "F":  # an entry is scattered over the whole array
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F")
            return np.array(mapped[index])
        count = math.prod(self.shape[1:])
        begin = self.offset + index * count * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count, offset=begin).reshape(self.shape[1:])


def read_pickle(path: Path, scratch: Path) -> Any:
    """Return what a pickle holds: dicts, lists, text, numbers and `StoredArray`s.

    Args:
        path: The pickle.
        scratch: A file to write to; it must live as long as the arrays are read.

    Raises:
        ExtractError: the pickle is damaged, or asks for more than arrays and plain containers.
    """
    module = "extract.importers.pickle_scan"
    arguments = (str(path.resolve()), str(scratch.resolve()), _SCAN_SECONDS, _SCAN_MEGABYTES)
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=Path(extract.__file__).parents[1],  # where this very package is imported from
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=2 * _SCAN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExtractError(f"{path}: took too long to look through; refused") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else "took too long to look through"
        raise ExtractError(f"{path}: {reason}; refused")

    def value_of(found: dict[str, Any]) -> Any:
        if "dict" in found:
            return dict(found["dict"])
        file, offset, dtype, shape, order = found["array"]
        place = scratch if file else path
        return StoredArray(place, offset, np.dtype(dtype), tuple(shape), order)

    return json.loads(done.stdout, object_hook=value_of)


def pickle_parts(path: Path, split: str | None, scratch: Path) -> list[Part]:
    """Return the parts of a pickle in either form.

    Args:
        path: The pickle.
        split: Which split the file is, where it does not say so itself.
        scratch: As in `read_pickle`.

    Raises:
        ExtractError: the file is refused, or has another form.
    """
    content = read_pickle(path, scratch)
    if isinstance(content, list):
        return _listed(path, split or split_of_file(path), content)
    if isinstance(content, dict):
        splits = {key: value for key, value in content.items() if key in SPLIT_WORDS}
        if splits and all(isinstance(value, dict) for value in splits.values()):
            return [
                part
                for key, value in splits.items()
                for part in _mmsa_split(f"{path.name}, {key}", SPLIT_WORDS[key], value)
            ]
        if "id" in content:
            return _mmsa_split(path.name, split or split_of_file(path), content)
    raise ExtractError(
        f"{path}: neither MMSA's form (a dict of splits that have an 'id') "
        "nor MSE-Adapter's (a list of dicts with 'features')"
    )


def _mmsa_split(origin: str, split: str | None, fields: Mapping[str, Any]) -> list[Part]:
    names = _texts(fields.get("id"), f"{origin}, id")
    labels = fields.get("regression_labels")
    parts = []
    for key, array in fields.items():
        features = isinstance(array, StoredArray) and array.dtype.kind == "f"
        if not features or key in _NO_FEATURES or key.startswith("regression_labels"):
            continue
        if len(array.shape) not in (2, 3):
            continue
        parts.append(
            padded_part(
                origin,
                MODALITY_ALIASES.get(key, key),
                split,
                array,
                names=names,
                labels=None if labels is None else _numbers(labels, origin).tolist(),
                lengths=_lengths(fields, key, origin),
            )
        )
    return parts


def _lengths(fields: Mapping[str, Any], key: str, origin: str) -> NDArray[np.int64] | None:
    """Return the rows of each utterance that are no padding, None where the file has no word.

    The text's are where BERT's attention mask is one.
    """
    if (found := fields.get(f"{key}_lengths")) is not None:
        return _numbers(found, f"{origin}, {key}_lengths").astype(np.int64)
    tokens = fields.get("text_bert")
    if key == "text" and isinstance(tokens, StoredArray) and tokens.shape[1:2] == (3,):
        return np.asarray(tokens[...][:, 1].sum(axis=1), np.int64)
    return None


def _listed(path: Path, split: str | None, rows: Sequence[Any]) -> list[Part]:
    """Return the parts of MSE-Adapter's list; they have no ids."""
    gathered: dict[str, list[Array]] = {}
    lengths: dict[str, list[int]] = {}
    labels = []
    for number, row in enumerate(rows, start=1):
        features = row.get("features") if isinstance(row, dict) else None
        if not isinstance(features, dict) or not isinstance(row.get("label"), str | int | float):
            raise ExtractError(f"{path}, item {number}: no dict with 'label' and 'features'")
        labels.append(row["label"])
        for key in (*MODALITIES, *MODALITY_ALIASES):
            array = features.get(key)
            if isinstance(array, StoredArray) and array.dtype.kind == "f":
                gathered.setdefault(key, []).append(array)
                if (length := features.get(f"{key}_len")) is not None:
                    lengths.setdefault(key, []).append(int(_numbers(length, path.name).flat[0]))
    for key, arrays in gathered.items():
        if not len(arrays) == len(rows) == len(lengths.get(key, rows)):
            raise ExtractError(f"{path}: only some of its items have {key!r} or {key + '_len'!r}")
    return [
        listed_part(
            path.name,
            MODALITY_ALIASES.get(key, key),
            split,
            arrays,
            names=None,
            labels=labels,
            lengths=lengths.get(key),
        )
        for key, arrays in gathered.items()
    ]


def _texts(value: Any, where: str) -> list[str]:
    if isinstance(value, StoredArray) and value.dtype.kind == "U":
        value = value[...].reshape(-1).tolist()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ExtractError(f"{where}: expected a list of ids")
    return value


def _numbers(value: Any, where: str) -> NDArray[Any]:
    loaded = value[...] if isinstance(value, StoredArray) else value
    try:
        return np.asarray(loaded, np.float64).reshape(-1)
    except (ValueError, TypeError):
        raise ExtractError(f"{where}: expected numbers") from None
