"""HDF5: one dataset an utterance, or egmf's own flat form (`id`, `offset`, `value`).

With one dataset an utterance, the groups above it may say the split and the modality
(`/train/audio/ID` as well as `/ID/audio`); what is left of its path is the id. Links to other
files and raw data kept in other files are refused, because they could name any file of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.importers.base import (
    MODALITIES,
    MODALITY_ALIASES,
    SPLIT_WORDS,
    Part,
    feature_dtype,
    listed_part,
    split_of_file,
)

_MODALITY_WORDS = {**{name: name for name in MODALITIES}, **MODALITY_ALIASES}
_FLAT = {"id", "offset", "value"}


def hdf5_parts(path: Path, split: str | None, modality: str | None) -> list[Part]:
    """Return the parts of an HDF5 file; the file stays open as long as they are read.

    Args:
        path: The file.
        split: Which split it is, where its groups do not say so.
        modality: Which modality it is, where its groups do not say so.

    Raises:
        ExtractError: the file is damaged, refused, or has another form.
    """
    try:
        file = h5py.File(path, "r", locking=False)
        if set(file) >= _FLAT:
            return [_flat_part(path, file, split, modality)]
        return _keyed_parts(path, file, split, modality)
    except FileNotFoundError:
        raise ExtractError(f"{path}: no such file") from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ExtractError(f"{path} is no readable HDF5 file: {reason}") from None


def _flat_part(path: Path, file: Any, split: str | None, modality: str | None) -> Part:
    for name in _FLAT:
        _check_dataset(path, name, file[name])
    named = modality or str(file.attrs.get("modality", ""))
    if not named:
        raise ExtractError(f"{path} does not say its modality; give --modality")
    names = [str(name) for name in file["id"].asstr()[:]]
    offset = np.asarray(file["offset"][:], np.int64)
    value = file["value"]
    lengths = np.diff(offset)
    if (
        value.ndim != 2
        or len(offset) != len(names) + 1
        or not len(names)
        or offset[0] != 0
        or offset[-1] != len(value)
        or (lengths < 0).any()
    ):
        raise ExtractError(f"{path}: 'id', 'offset' and 'value' do not fit each other")

    def read(index: int) -> NDArray[Any]:
        return np.asarray(value[offset[index] : offset[index + 1]])

    return Part(
        origin=path.name,
        modality=named,
        split=split or split_of_file(path),
        names=names,
        labels=None,
        dim=value.shape[1],
        dtype=feature_dtype(value.dtype, str(path)),
        longest=int(lengths.max()),
        read=read,
        size=len(names),
    )


def _keyed_parts(path: Path, file: Any, split: str | None, modality: str | None) -> list[Part]:
    known = split or split_of_file(path)
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for keys, dataset in _datasets(path, file, ()):
        found_modality, found_split, rest = modality, known, []
        for key in keys:
            if key in _MODALITY_WORDS:
                found_modality = _MODALITY_WORDS[key]
            elif key in SPLIT_WORDS:
                found_split = SPLIT_WORDS[key]
            else:
                rest.append(key)
        where = "/".join(keys)
        if found_modality is None:
            raise ExtractError(f"{path}: {where!r} does not say its modality; give --modality")
        if not rest:
            raise ExtractError(f"{path}: the path {where!r} holds no id")
        members = groups.setdefault((found_modality, found_split), {})
        members["/".join(rest)] = dataset
    if not groups:
        raise ExtractError(f"{path} holds no datasets")
    return [
        listed_part(path.name, name, part, list(members.values()), names=list(members))
        for (name, part), members in groups.items()
    ]


def _datasets(path: Path, group: Any, above: tuple[str, ...]) -> Iterator[tuple[list[str], Any]]:
    """Yield every dataset below a group after the names that lead to it."""
    for key in group:
        keys = (*above, key)
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ExtractError(f"{path}: {'/'.join(keys)!r} is a link; refused")
        if len(keys) > 8:
            raise ExtractError(f"{path}: {'/'.join(keys)!r} is nested too deeply")
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _datasets(path, item, keys)
        else:
            _check_dataset(path, "/".join(keys), item)
            yield list(keys), item


def _check_dataset(path: Path, name: str, item: Any) -> None:
    if not isinstance(item, h5py.Dataset):
        raise ExtractError(f"{path}: {name!r} is no dataset; refused")
    if item.external or item.is_virtual:
        raise ExtractError(f"{path}: {name!r} keeps its values in another file; refused")
