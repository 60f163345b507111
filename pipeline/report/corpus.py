"""What the cache adds to a dataset's report: transcripts, groups, and what extraction cost.

Runs stand on their own, so all of it is optional. A table that is not the one the runs were trained
on is refused: its transcripts could belong to other utterances.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from extract.errors import ExtractError
from extract.files import sha256_of


class Extracted(BaseModel):
    """What one run of the extraction did with one modality."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    modality: str
    encoder: str
    utterances_encoded: int = 0
    megabytes: float = 0.0
    flags: dict[str, int] = {}


class Extraction(BaseModel):
    """One line of `extract-log.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    finished: str
    modalities: tuple[Extracted, ...]
    seconds: float
    seconds_by_phase: dict[str, float] = {}
    utterances_encoded: int
    utterances_per_second: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True)
class Corpus:
    """A dataset as the cache knows it; empty where there is no cache, or a different one.

    `texts` and `groups` map utterance ids to transcripts and to dialogues or videos; `groups` is
    None where the table has none. `note` says why transcripts are missing.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] | None = None
    extractions: tuple[Extraction, ...] = ()
    note: str = ""


def read_corpus(cache: Path | None, dataset: str, tables: Collection[str]) -> Corpus:
    """Read a dataset's part of the cache.

    Args:
        cache: The cache's folder, or None.
        dataset: Its name.
        tables: SHA-256 of the tables that the runs were trained on.
    """
    if cache is None:
        return Corpus(note="no cache was given or found")
    folder = cache / dataset
    path = folder / "utterances.parquet"
    extractions = _extractions(folder / "extract-log.jsonl")
    try:
        digest = sha256_of(path)
    except OSError:
        return Corpus(extractions=extractions, note=f"{cache} has no table of {dataset}")
    if set(tables) != {digest}:
        reason = f"the table in {cache} is another version than the runs were trained on"
        return Corpus(extractions=extractions, note=reason)
    from extract.table import read_table

    try:
        table = read_table(path)
    except ExtractError as error:
        return Corpus(extractions=extractions, note=str(error))
    return Corpus(_column(table, "text"), _column(table, "group") or None, extractions, note="")


def _column(table: Any, name: str) -> dict[str, str]:
    pairs = zip(table["id"], table[name], strict=True)
    return {str(key): value for key, value in pairs if isinstance(value, str)}


def _extractions(path: Path) -> tuple[Extraction, ...]:
    """Read the lines of runs that encoded something.

    Those of other versions, and one cut off half-way, are left out.
    """
    adapter = TypeAdapter(Extraction)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        try:
            found.append(adapter.validate_python(json.loads(line)))
        except (ValueError, ValidationError):
            continue
    return tuple(each for each in found if each.utterances_encoded)
