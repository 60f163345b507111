"""Import features into a dataset's cache: the manifest's knowledge joined with a file's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.importers.files import Imported, import_files
from extract.importers.files import Request as FileRequest
from extract.importers.join import Listed
from extract.importers.store import Progress
from extract.table import read_table, write_table
from pipeline.corpus import build_table
from pipeline.errors import PipelineError
from pipeline.manifest import DatasetEntry, load_manifest
from pipeline.scaling import remember_sums

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Request:
    """What to import, and where the dataset's own files lie should its table be missing.

    Attributes:
        files: Which files, as what.
        data_root: Where the dataset's files are looked for.
        manifest: A user's own manifest.
        allow_count_mismatch: Go on where split sizes differ from the manifest's.
        allow_symlinks: Follow links out of the data root.
    """

    files: FileRequest
    data_root: Path
    manifest: Path | None = None
    allow_count_mismatch: bool = False
    allow_symlinks: bool = False


def import_features(
    request: Request, say: Callable[[str], None], progress: Progress
) -> list[Imported]:
    """Import the files; the utterance table is made first where the cache has none.

    Raises:
        PipelineError: the dataset is unknown, or its own files are not there.
        ExtractError: a file is refused, damaged, or does not fit the table.
    """
    entry = load_manifest(request.manifest).dataset(request.files.dataset)
    table = _table(entry, request, say)
    labels = {word: label.name for label in entry.labels for word in label.spellings()}
    imported, notes = import_files(request.files, listed_rows(table), labels, progress)
    for line in (*notes, *(line for one in imported for line in remarks(one))):
        say(line)
    remember_sums(request.files.cache, entry.name)
    return imported


def listed_rows(table: pd.DataFrame) -> list[Listed]:
    """Return what importing needs to know of a table's rows."""
    return [
        Listed(id=row["id"], split=row["split"], label=row["label"], score=_number(row["score"]))
        for row in table[["id", "split", "label", "score"]].to_dict("records")
    ]


def remarks(one: Imported) -> list[str]:
    """Return what a user should know of how a file fitted the table, one line each."""
    stored, joined = one.stored, one.joined
    lines = [stored.lock_taken_over] if stored.lock_taken_over else []
    if joined.by_order:
        lines.append(
            "WARNING: the files have no ids; joined with the table by order, "
            "since counts and every label agree"
        )
    if joined.without_row:
        lines.append(
            f"{joined.without_row:,} utterances without a row in the table, ignored "
            f"(first: {joined.first_without_row})"
        )
    if joined.in_another_split:
        lines.append(f"{joined.in_another_split:,} lie in another split than the table's")
    if joined.labels_differ:
        lines.append(f"{joined.labels_differ:,} labels differ from the table's, which stay")
    lines += [f"absent: {count:,} x {reason}" for reason, count in stored.absent.items()]
    for what, count in stored.set_to_zero.items():
        lines.append(f"{count:,} values were {what} and are now 0")
    lines += [f"flagged: {count:,} x {flag}" for flag, count in stored.flags.items()]
    return [f"{stored.modality}: {line}" for line in lines]


def as_json_values(one: Imported) -> dict[str, Any]:
    """Return everything about an import as JSON values."""
    joined = asdict(one.joined)
    del joined["places"]
    return {**asdict(one.stored), "folder": str(one.stored.folder), **joined}


def _table(entry: DatasetEntry, request: Request, say: Callable[[str], None]) -> pd.DataFrame:
    """Return the cache's table; make it where there is none."""
    path = request.files.cache / entry.name / "utterances.parquet"
    if path.is_file():
        return read_table(path)
    try:
        corpus = build_table(
            entry,
            request.data_root,
            allow_count_mismatch=request.allow_count_mismatch,
            allow_symlinks=request.allow_symlinks,
        )
    except PipelineError as error:
        raise PipelineError(f"{path} is not there yet, and to make it: {error}") from None
    for line in (*corpus.notes, *filter(None, [corpus.count_mismatch])):
        say(f"{entry.name}: {line}")
    write_table(corpus.table, path)
    return read_table(path)


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)  # NaN differs from itself
