"""MELD's raw release: three CSV files and one folder of clips for each split.

The clips are already cut, so the CSV's times are no spans within them; they only show which clips
were cut wrongly. Ids restart in each split and are therefore qualified by it, with the release's
own words: `train_dia0_utt0`, `dev_…`, `test_…`. A row stays whether its clip is there or not.

Source: https://github.com/declare-lab/MELD (README and `utils/read_meld.py`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from extract.errors import ExtractError
from extract.layouts.base import (
    BaseLayout,
    LayoutRequest,
    LayoutRow,
    LayoutTable,
    ReleaseNotFoundError,
)
from extract.layouts.cells import parse_delimited
from extract.layouts.cp1252 import decode_lenient, mend
from extract.layouts.stock import some, take_stock

COLUMNS = (
    "Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime",
)  # fmt: skip
NEAR_EMPTY_SECONDS = 0.1

# The archives hold one folder each, which people unpack beside the CSV files or into a folder of
# the part's name; others rename the folder itself.
_TABLES = (
    "{part}_sent_emo.csv",
    "{part}/{part}_sent_emo.csv",
    "data/MELD/{part}_sent_emo.csv",
)
_CLIP_FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
_TIME = re.compile(r"(\d+):(\d{1,2}):(\d{1,2})(?:[.,](\d+))?")


class MeldLayout(BaseLayout):
    """MELD as released (MELD.Raw)."""

    reader: Literal["meld"]

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read the three parts and compare the clips that are there with their rows."""
        tables = {part: _find_table(request, part) for part in _SPLITS}
        if missing := [f"{part}_sent_emo.csv" for part, path in tables.items() if path is None]:
            raise ReleaseNotFoundError(missing, request.root)
        parts = [_read_part(request, part, path) for part, path in tables.items() if path]
        return LayoutTable(
            rows=tuple(row for part in parts for row in part.rows),
            notes=tuple(note for part in parts for note in part.notes),
            ignored={kind: n for part in parts for kind, n in part.ignored.items()},
        )


def parse_time(text: str) -> float | None:
    """Return the seconds of `H:MM:SS,mmm`, with or without zeros in front and a fraction.

    The digits after the comma are a decimal fraction: `,82` is 0.82 s.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def _find_table(request: LayoutRequest, part: str) -> Path | None:
    candidates = (request.file(pattern.format(part=part)) for pattern in _TABLES)
    return next((path for path in candidates if path is not None), None)


def _read_part(request: LayoutRequest, part: str, path: Path) -> LayoutTable:
    try:
        text = decode_lenient(path.read_bytes())
    except OSError as error:
        raise ExtractError(f"{path} cannot be read: {error.strerror}") from None
    cells = parse_delimited(text, path)
    cells.require(COLUMNS)
    folder = _clip_folder(request.root, part)
    rows: list[LayoutRow] = []
    spans: dict[str, float | None] = {}
    mended = 0
    for origin, cell in cells.located():
        dialogue = _number(cell, "Dialogue_ID", origin)
        turn = _number(cell, "Utterance_ID", origin)
        clip = f"dia{dialogue}_utt{turn}"
        spoken, speaker = cell["Utterance"] or "", cell["Speaker"] or ""
        mended += mend(spoken) != spoken
        row = LayoutRow(
            origin,
            id=f"{part}_{clip}",
            split=_SPLITS[part],
            label=cell["Emotion"],
            text=mend(spoken) or None,
            group=f"{part}_dia{dialogue}",
            order=turn,
            speaker=mend(speaker) or None,
            media=f"{folder}/{clip}.mp4",
        )
        rows.append(row)
        spans[row.id] = _span(cell["StartTime"], cell["EndTime"])
    notes = _span_notes(part, spans, request.max_seconds)
    if mended:
        notes.append(f"{part}: {mended} transcripts mended (misread as code page 1252)")
    wanted = {row.media for row in rows if row.media is not None}
    absent, extra = take_stock(request.root, folder, wanted, f"{part} clips")
    return LayoutTable(tuple(rows), (*notes, *absent), extra)


def _clip_folder(root: Path, part: str) -> str:
    """Return the folder of a part's clips; where there is none, its name in the release."""
    name = _CLIP_FOLDERS[part]
    candidates = (name, f"{part}/{name}", f"data/MELD/{name}", part)
    return next((folder for folder in candidates if any((root / folder).glob("*.mp4"))), name)


def _number(cell: dict[str, str | None], column: str, origin: str) -> int:
    value = (cell[column] or "").strip()
    if not value.isdecimal():
        raise ExtractError(f"{origin}: {column} is {value!r}, expected a number")
    return int(value)


def _span(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two of the CSV's times, None where one cannot be read."""
    times = parse_time(start or ""), parse_time(end or "")
    return None if times[0] is None or times[1] is None else times[1] - times[0]


def _span_notes(part: str, spans: dict[str, float | None], max_seconds: float) -> list[str]:
    """Say which rows the CSV's times show to be cut wrongly."""
    known = {name: span for name, span in spans.items() if span is not None}
    kinds = {
        "cannot be read": spans.keys() - known.keys(),
        f"are over {max_seconds:g} s apart": {
            name for name, span in known.items() if span > max_seconds
        },
        "end where they start or before": {name for name, span in known.items() if span <= 0},
        f"are at most {NEAR_EMPTY_SECONDS} s apart": {
            name for name, span in known.items() if 0 < span <= NEAR_EMPTY_SECONDS
        },
    }
    return [
        f"{part}: rows whose times in the CSV {kind}: {len(names)} ({some(names)})"
        for kind, names in kinds.items()
        if names
    ]
