"""Archives of numpy arrays: `{split}_{modality}` beside `{split}_id`, or one array an utterance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.archive import Archive, open_archive
from extract.errors import ExtractError
from extract.importers.base import (
    MODALITIES,
    MODALITY_ALIASES,
    SPLIT_WORDS,
    Part,
    listed_part,
    padded_part,
    split_of_file,
)


def npz_parts(path: Path, split: str | None, modality: str | None) -> list[Part]:
    """Return the parts of an archive.

    Args:
        path: The archive.
        split: Which split it is, where its arrays' names do not say so.
        modality: Which modality it is, where its arrays' names do not say so.

    Raises:
        ExtractError: the archive is refused, or has another form.
    """
    archive = open_archive(path)
    prefixes = [name[: -len("id")] for name in archive.shapes if name.split("_")[-1] == "id"]
    if prefixes:
        return [part for prefix in prefixes for part in _group(archive, prefix, split)]
    if modality is None:
        raise ExtractError(
            f"{path} has no '{{split}}_id' array beside '{{split}}_audio' and the like; "
            "if each of its arrays is one utterance, give --modality"
        )
    names = sorted(archive.shapes)
    arrays = [_Lazy(archive, name) for name in names]
    known = split or split_of_file(path)
    return [listed_part(path.name, modality, known, arrays, names=names)]


@dataclass(frozen=True)
class _Lazy:
    """One array of an archive, read when it is looked into."""

    archive: Archive
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.archive.shapes[self.name]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.archive.dtypes[self.name]

    def __getitem__(self, index: int | EllipsisType) -> NDArray[Any]:
        return np.asarray(self.archive.load(self.name)[index])


def _group(archive: Archive, prefix: str, split: str | None) -> list[Part]:
    """Return the parts of the arrays whose names begin with `prefix`, such as `train_`."""
    word = prefix.rstrip("_")
    known = SPLIT_WORDS.get(word, split or split_of_file(archive.path))
    names = archive.texts(f"{prefix}id")
    parts = []
    for key in (*MODALITIES, *MODALITY_ALIASES):
        if prefix + key not in archive.shapes:
            continue
        lengths = f"{prefix}{key}_lengths"
        parts.append(
            padded_part(
                f"{archive.path.name}, {word}" if word else archive.path.name,
                MODALITY_ALIASES.get(key, key),
                known,
                _Lazy(archive, prefix + key),
                names=names,
                lengths=archive.load(lengths) if lengths in archive.shapes else None,
            )
        )
    return parts
