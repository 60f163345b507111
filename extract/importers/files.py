"""Import feature files: tell their form, join them with the table, store what they hold."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import ExtractError
from extract.files import sha256_of
from extract.importers.base import SPLIT_WORDS, Part, words_of
from extract.importers.hdf5 import hdf5_parts
from extract.importers.join import Joined, Listed, join
from extract.importers.npz import npz_parts
from extract.importers.pickles import pickle_parts
from extract.importers.store import (
    IMPORT_VERSION,
    STAGE,
    Advance,
    Progress,
    Source,
    Stored,
    store_features,
)
from extract.importers.tables import Columns, table_parts
from extract.plan import ABSENT, Row
from extract.shards import SetAside

_PICKLES = {".pkl", ".pickle"}
_TABLES = {".csv", ".tsv", ".parquet"}
_HDF5 = {".h5", ".hdf5"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Request:
    """What to import.

    Attributes:
        paths: The files that make up one feature set.
        dataset: Name of the dataset.
        cache: The cache's folder.
        name: Name of the feature set; by default after the files.
        split: The split that the files are, where neither they nor their names say so.
        modalities: Which modalities to import; for a file that does not name its own, which it is.
    """

    paths: tuple[Path, ...]
    dataset: str
    cache: Path
    name: str | None = None
    split: str | None = None
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """One feature set that was imported, and how its files fitted the table."""

    stored: Stored
    joined: Joined


def import_files(
    request: Request,
    table: Sequence[Listed],
    labels: Mapping[str, str],
    progress: Progress,
) -> tuple[list[Imported], list[str]]:
    """Import one or several files; return each modality, and what is to be said of the files.

    Args:
        request: What to import.
        table: The utterance table.
        labels: The canonical name of each spelling of a label, spellings case-folded.
        progress: Shows how far a modality is.

    Raises:
        ExtractError: a file is refused, damaged, or does not fit the table.
    """
    paths = sorted(request.paths, key=lambda path: path.name)
    for name in (*request.modalities, *filter(None, [request.name])):
        if not _NAME.fullmatch(name):
            raise ExtractError(f"{name!r} is no name: letters, digits, '_', '.' and '-' only")
    name = request.name or name_of(paths)
    files = _digests(paths)
    parts: list[Part] = []
    columns: dict[Columns, str] = {}
    with tempfile.TemporaryDirectory(prefix="egmf-import-") as scratch:
        for number, path in enumerate(paths):
            if path.suffix.lower() in _TABLES:
                found, chosen = table_parts(path, request.split, _only(request.modalities))
                columns.setdefault(chosen, path.name)
            else:
                found = _parts(path, request, Path(scratch) / str(number))
            parts += found
        notes = _column_notes(columns)
        imported = []
        for modality in _chosen(parts, request.modalities, paths):
            own = [part for part in parts if part.modality == modality]
            with progress(f"{request.dataset}: {modality}", len(table), "rows") as advance:
                imported.append(_import(request, name, files, own, table, labels, advance))
    return imported, notes


def name_of(paths: Sequence[Path]) -> str:
    """Return a name for files that belong together: theirs, without the word for a split.

    Raises:
        ExtractError: their names differ otherwise.
    """
    if len(paths) == 1:
        stems = {paths[0].stem}
    else:
        stems = {
            "_".join(word for word in words_of(path) if word not in SPLIT_WORDS) for path in paths
        }
    if len(stems) != 1:
        raise ExtractError(
            f"the files' names have no part in common ({', '.join(sorted(stems))}); give --name"
        )
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stems.pop()).lstrip("_.-")[:64] or "features"


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name.

    Raises:
        ExtractError: a file cannot be read, or two have one name.
    """
    digests: dict[str, str] = {}
    for path in paths:
        if path.name in digests:
            raise ExtractError(f"two of the files are called {path.name}; rename one")
        try:
            digests[path.name] = sha256_of(path)
        except OSError as error:
            raise ExtractError(f"{path} cannot be read: {error.strerror}") from None
    return digests


def _parts(path: Path, request: Request, scratch: Path) -> list[Part]:
    """Return the parts of a file that is no table."""
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        return pickle_parts(path, request.split, scratch)
    if suffix == ".npz":
        return npz_parts(path, request.split, _only(request.modalities))
    if suffix in _HDF5:
        return hdf5_parts(path, request.split, _only(request.modalities))
    known = sorted({*_PICKLES, ".npz", *_HDF5, *_TABLES})
    raise ExtractError(f"{path}: features are imported from {', '.join(known)} only")


def _only(modalities: Sequence[str]) -> str | None:
    """Return what a file is that does not name its modality."""
    return modalities[0] if len(modalities) == 1 else None


def _column_notes(columns: Mapping[Columns, str]) -> list[str]:
    """Say which columns of tables became features.

    Raises:
        ExtractError: the files have different ones, or in another order.
    """
    if len({each.features for each in columns}) > 1:
        first, second = list(columns)[:2]
        raise ExtractError(
            f"{columns[first]} and {columns[second]} differ in their columns: "
            f"{', '.join(first.features)}; {', '.join(second.features)}"
        )
    lines = []
    for each in columns:
        lines.append(f"features are the columns {', '.join(each.features)}")
        if each.left_out:
            lines.append(f"{columns[each]}: left out are {', '.join(each.left_out)}")
    return list(dict.fromkeys(lines))


def _chosen(parts: Sequence[Part], wanted: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return the modalities to import, in the order of the files.

    Raises:
        ExtractError: there is none, or not one that was asked for.
    """
    found = list(dict.fromkeys(part.modality for part in parts))
    held = f"{', '.join(path.name for path in paths)}: holds {', '.join(found) or 'no features'}"
    for name in wanted:
        if name not in found:
            raise ExtractError(f"{held}, and no {name!r}")
    if not found:
        raise ExtractError(held)
    return [name for name in found if name in wanted or not wanted]


def _import(
    request: Request,
    name: str,
    files: Mapping[str, str],
    parts: Sequence[Part],
    table: Sequence[Listed],
    labels: Mapping[str, str],
    advance: Advance,
) -> Imported:
    """Join and store one modality."""
    modality = parts[0].modality
    dims = {part.dim for part in parts}
    if len(dims) != 1:
        listed = ", ".join(f"{part.origin}: {part.dim}" for part in parts)
        raise ExtractError(f"{modality} features have unlike dims ({listed})")
    joined = join(parts, table, labels)
    dtype = np.result_type(*(part.dtype for part in parts))

    def read(row: Row) -> NDArray[Any]:
        place = joined.places[row.id]
        return parts[place.part].read(place.number).astype(dtype, copy=False)

    stored = store_features(
        request.cache,
        Source(
            dataset=request.dataset,
            modality=modality,
            encoder=f"import:{name}",
            slug=name,
            ingredients={
                "source": "import",
                "version": IMPORT_VERSION,
                "modality": modality,
                "split": request.split,
                "sha256": sorted(files.values()),
            },
            files=files,
            dim=dims.pop(),
            dtype=dtype,
            longest=max(part.longest for part in parts),
        ),
        [_row(each, joined, parts) for each in table],
        read,
        advance,
    )
    return Imported(stored, joined)


def _row(listed: Listed, joined: Joined, parts: Sequence[Part]) -> Row:
    place = joined.places.get(listed.id)
    if place is not None:
        file = parts[place.part].origin
        return Row(listed.id, listed.split, f"{file} {place.number}", file=file)
    files = [part.origin for part in parts if part.split in (None, listed.split)]
    reason = f"not in {', '.join(files)}" if files else f"no file of split {listed.split}"
    absent = SetAside(listed.id, "", STAGE, reason)
    return Row(listed.id, listed.split, ABSENT, absent=absent)
