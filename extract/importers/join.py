"""Join a file's utterances with those of the utterance table.

Files call one utterance by different names: MMSA writes `video$_$clip`, a feature extractor the
name of the media file, and MELD starts its dialogues anew in every split. A name is therefore tried
as it is, without the ending of a media file, and behind the word for its split. A file without ids
is joined by order, which is believed only when the counts agree and every label does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from extract.errors import ExtractError
from extract.importers.base import SPLIT_WORDS, Part, check_name

_MMSA_SEPARATOR = "$_$"
_MEDIA_ENDINGS = (".wav", ".mp4", ".mp3", ".flac", ".avi", ".mkv", ".m4a", ".npy")


class Listed(NamedTuple):
    """What joining needs to know of a row of the utterance table."""

    id: str
    split: str
    label: str | None
    score: float | None


class Place(NamedTuple):
    """Where an utterance's features are: which part, and its number there."""

    part: int
    number: int


@dataclass
class Joined:
    """Where each utterance's features are, and what did not fit."""

    places: dict[str, Place] = field(default_factory=dict)
    without_row: int = 0
    first_without_row: str = ""
    in_another_split: int = 0
    labels_differ: int = 0
    by_order: bool = False


def join(parts: Sequence[Part], table: Sequence[Listed], labels: Mapping[str, str]) -> Joined:
    """Find the features of each row of the table.

    Args:
        parts: Parts of one modality.
        table: The utterance table.
        labels: The canonical name of each spelling of a label, spellings case-folded.

    Raises:
        ExtractError: a name is refused, stands for several rows, or comes twice; no name fits;
            or a file without ids does not match the table.
    """
    joined = Joined()
    rows = {row.id: row for row in table}
    for number, part in enumerate(parts):
        if part.names is None:
            _join_by_order(joined, number, part, table, labels)
        else:
            _join_by_name(joined, number, part, part.names, rows)
    if not joined.places:
        raise ExtractError(
            f"{parts[0].origin}: none of its ids is in the table "
            f"(its first: {joined.first_without_row!r:.60}; the table's: {table[0].id!r:.60})"
        )
    return joined


def _join_by_name(
    joined: Joined, number: int, part: Part, names: Sequence[str], rows: Mapping[str, Listed]
) -> None:
    for index, name in enumerate(names):
        found = _row_of(check_name(name, part.origin), part, rows)
        if found is None:
            joined.without_row += 1
            joined.first_without_row = joined.first_without_row or name
            continue
        if found.id in joined.places:
            raise ExtractError(f"{part.origin}: {name!r} is the second one for {found.id!r}")
        joined.places[found.id] = Place(number, index)
        joined.in_another_split += part.split not in (None, found.split)
        if part.labels is not None and found.score is not None:
            joined.labels_differ += not _agrees(part.labels[index], found, {})


def _row_of(name: str, part: Part, rows: Mapping[str, Listed]) -> Listed | None:
    name = name.replace(_MMSA_SEPARATOR, "_")
    if name in rows:
        return rows[name]
    stem = name
    while stem.endswith(_MEDIA_ENDINGS):
        stem = stem[: stem.rindex(".")]
    if stem in rows:
        return rows[stem]
    words = [word for word, split in SPLIT_WORDS.items() if part.split in (None, split)]
    found = {row.id: row for word in words if (row := rows.get(f"{word}_{stem}")) is not None}
    if len(found) > 1:
        raise ExtractError(
            f"{part.origin}: {name!r} may be any of {', '.join(sorted(found))}; give --split"
        )
    return next(iter(found.values()), None)


def _join_by_order(
    joined: Joined,
    number: int,
    part: Part,
    table: Sequence[Listed],
    labels: Mapping[str, str],
) -> None:
    """Join a file without ids with the rows of its split.

    Raises:
        ExtractError: the split is not known, or counts or labels differ.
    """
    if part.split is None:
        raise ExtractError(f"{part.origin} has no ids and does not say its split; give --split")
    rows = [row for row in table if row.split == part.split]
    if part.size != len(rows):
        raise ExtractError(
            f"{part.origin} has no ids and {part.size:,} utterances, but the table has "
            f"{len(rows):,} in split {part.split!r}: which is which cannot be told; refused"
        )
    wrong = [
        (row.id, label)
        for row, label in zip(rows, part.labels or [], strict=True)
        if not _agrees(label, row, labels)
    ]
    if wrong:
        raise ExtractError(
            f"{part.origin} has no ids, and {len(wrong):,} of its {len(rows):,} labels differ "
            f"from the table's in the same order (first: {wrong[0][1]!r:.40} for {wrong[0][0]}); "
            "refused"
        )
    joined.by_order = True
    joined.places.update({row.id: Place(number, index) for index, row in enumerate(rows)})


def _agrees(label: str | float, row: Listed, labels: Mapping[str, str]) -> bool:
    """Tell whether a file's label is the row's; scores are compared in single precision."""
    if isinstance(label, str):
        return labels.get(label.strip().casefold()) == row.label
    return row.score is not None and abs(label - row.score) <= 1e-5 * max(1.0, abs(row.score))
