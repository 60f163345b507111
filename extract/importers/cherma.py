"""CHERMA's released features: one `.npy` file for each utterance and modality.

`text/train/STEM.npy`, `audio/train/STEM.npy`, `visual/train/STEM.mp4.npy`, beside the lists that
`extract.layouts.cherma` reads; an id is `train_STEM`. The release has no media, so its features
stand where other corpora have encoders, as feature sets named `released`. A replaced file is told
by its size and time, like a clip, and only its shard is written anew.

Source: https://github.com/sunjunaimer/LFMIM (`data_prepare.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.archive import load_npy, npy_header
from extract.errors import ExtractError
from extract.importers.base import feature_dtype
from extract.importers.join import Listed
from extract.importers.store import (
    IMPORT_VERSION,
    Progress,
    Source,
    Stored,
    UnusableError,
    store_features,
)
from extract.paths import resolve_inside
from extract.plan import ABSENT, Row
from extract.shards import SetAside

RELEASED = "released"
FILES = {
    "text": "text/{part}/{stem}.npy",
    "audio": "audio/{part}/{stem}.npy",
    "visual": "visual/{part}/{stem}.mp4.npy",
}
_SAMPLE = 100  # files whose headers tell what the others should be like


def import_cherma(
    root: Path,
    dataset: str,
    table: Sequence[Listed],
    cache: Path,
    progress: Progress,
    *,
    modalities: Sequence[str] = tuple(FILES),
    allow_symlinks: bool = False,
) -> list[Stored]:
    """Turn the release's features into feature sets, one for each modality that is there.

    Args:
        root: The release's folder.
        dataset: Name of the dataset.
        table: The utterance table.
        cache: The cache's folder.
        progress: Shows how far a modality is.
        modalities: Which to take.
        allow_symlinks: Follow links that lead out of `root`.

    Raises:
        ExtractError: the release holds no features of these modalities.
        OSError: the cache cannot be written.
    """
    stored = []
    for modality in modalities:
        rows = [_row(root, FILES[modality], each, allow_symlinks) for each in table]
        source = _source(dataset, modality, rows)
        if source is not None:
            with progress(f"{dataset}: {modality}", len(rows), "rows") as advance:
                stored.append(store_features(cache, source, rows, _reader(source), advance))
    if not stored:
        places = ", ".join(FILES[modality].partition("/")[0] for modality in modalities)
        raise ExtractError(f"{root}: no .npy files of CHERMA's utterances under {places}")
    return stored


def _row(root: Path, pattern: str, listed: Listed, allow_symlinks: bool) -> Row:
    """Find one utterance's file."""
    part, _, stem = listed.id.partition("_")
    file = pattern.format(part=part, stem=stem)
    try:
        path = resolve_inside(root, file, allow_symlinks=allow_symlinks)
        status = path.stat()
    except FileNotFoundError:
        reason = "no such file"
    except (ExtractError, OSError) as error:
        reason = str(error)
    else:
        digest = f"{status.st_size} {status.st_mtime_ns}"
        return Row(listed.id, listed.split, digest, root=root, file=file)
    absent = SetAside(listed.id, file, "open", reason)
    return Row(listed.id, listed.split, ABSENT, file=file, absent=absent)


def _source(dataset: str, modality: str, rows: Sequence[Row]) -> Source | None:
    """Describe a modality by what most of its first files are like; None where it has no file."""
    paths = [row.path for row in rows if row.path is not None]
    kinds: Counter[tuple[int, np.dtype[Any]]] = Counter()
    for path in paths[:_SAMPLE]:
        try:
            shape, dtype = npy_header(path)
            kinds[shape[-1], feature_dtype(dtype, path.name)] += 1
        except (ExtractError, OSError, IndexError):
            continue  # named in the quarantine when its turn comes
    if not kinds:
        return None
    (dim, dtype), _ = kinds.most_common(1)[0]
    largest = max(path.stat().st_size for path in paths)
    return Source(
        dataset=dataset,
        modality=modality,
        encoder=RELEASED,
        slug=RELEASED,
        ingredients={
            "source": RELEASED,
            "version": IMPORT_VERSION,
            "modality": modality,
            "dim": dim,
            "dtype": dtype.name,
        },
        files={},
        dim=dim,
        dtype=dtype,
        longest=math.ceil(largest / (dim * dtype.itemsize)),
    )


def _reader(source: Source) -> Callable[[Row], NDArray[Any]]:
    def read(row: Row) -> NDArray[Any]:
        path = row.path or Path()
        try:
            value = np.atleast_2d(load_npy(path))
        except ExtractError as error:
            raise UnusableError(str(error).removeprefix(f"{path.name} ")) from None
        except OSError as error:
            raise UnusableError(f"cannot be read: {error.strerror}") from None
        if value.ndim != 2 or value.shape[1] != source.dim:
            raise UnusableError(f"an array of shape {value.shape}, not [time, {source.dim}]")
        return value.astype(source.dtype, copy=False)

    return read
