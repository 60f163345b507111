"""CHERMA: one JSON list a split; the release holds features, no media and no transcripts.

Each record names its files and has four labels; `video_label` is the fused one, which the field
reports. Ids are the audio file's stem qualified by the list's, `train_…`, because the features
lie by these two (`text/train/STEM.npy`).

Source: https://github.com/sunjunaimer/LFMIM (`data_prepare.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from extract.errors import ExtractError
from extract.layouts.base import (
    BaseLayout,
    LayoutRequest,
    LayoutRow,
    LayoutTable,
    ReleaseNotFoundError,
)
from extract.layouts.cells import decode_text

LISTS = {"train": ("train",), "valid": ("dev", "valid", "val"), "test": ("test",)}
"""Stems that the list of each split may have."""


class ChermaLayout(BaseLayout):
    """CHERMA as released (CHERMA0723)."""

    reader: Literal["cherma"]

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read the three lists."""
        paths = {split: _find_list(request, stems) for split, stems in LISTS.items()}
        if missing := [f"{LISTS[split][0]}.json" for split, path in paths.items() if path is None]:
            raise ReleaseNotFoundError(missing, request.root)
        rows = [row for split, path in paths.items() if path for row in _read_list(path, split)]
        return LayoutTable(tuple(rows))


def _find_list(request: LayoutRequest, stems: tuple[str, ...]) -> Path | None:
    return next((path for stem in stems if (path := request.file(f"{stem}.json"))), None)


def _read_list(path: Path, split: str) -> Iterator[LayoutRow]:
    try:
        records: Any = json.loads(decode_text(path.read_bytes(), path))
    except OSError as error:
        raise ExtractError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ExtractError(f"{path} is not JSON: {error}") from None
    if not isinstance(records, list) or not records:
        raise ExtractError(f"{path}: expected a list of records")
    for number, record in enumerate(records, start=1):
        origin = f"{path.name} record {number}"
        if not isinstance(record, dict):
            raise ExtractError(f"{origin}: expected an object, got {record!r:.80}")
        for field in ("audio_file", "video_label"):
            if not isinstance(record.get(field), str):
                raise ExtractError(f"{origin} has no {field}")
        stem = record["audio_file"].removesuffix(".wav")
        yield LayoutRow(origin, id=f"{path.stem}_{stem}", split=split, label=record["video_label"])
