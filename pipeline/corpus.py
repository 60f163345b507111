"""From a manifest entry and a data root to the utterance table.

A layout says what a release holds; this module holds it against the manifest: labels become
canonical names, numbers must be numbers within the range, ids must be unique, paths must stay
inside the data root, and the counts must be those expected. What cannot be right is an error that
names file and line. What can be worked around is kept and noted: every labelled row stays.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from extract.errors import ExtractError
from extract.layouts import (
    SPLIT_ALIASES,
    LayoutRequest,
    LayoutRow,
    LayoutTable,
    ReleaseNotFoundError,
)
from extract.paths import Folder, resolve_inside
from extract.table import SCHEMA, SPLITS
from pipeline.errors import PipelineError
from pipeline.manifest import LANGUAGE_PER_ROW, DatasetEntry, nearest

if TYPE_CHECKING:
    import pandas as pd

SCORE_TOLERANCE = 1e-6
"""How far a score may lie outside its range: files hold thirds rounded in single precision."""

MAX_ID_BYTES = 255

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNTIDY = re.compile(r"//|^/|/$|(^|/)\.(/|$)")  # what a path does not keep when it is parsed


@dataclass(frozen=True)
class Corpus:
    """A dataset's utterance table and what is to be said of it.

    Attributes:
        table: Columns of `extract.table.SCHEMA`.
        root: The data root that the table's paths are relative to.
        notes: What is odd about this copy of the release, one line each.
        count_mismatch: Expected and found rows, where they differ and that was allowed.
    """

    table: pd.DataFrame
    root: Path
    notes: tuple[str, ...]
    count_mismatch: str | None = None


def build_table(
    entry: DatasetEntry,
    data_root: Path,
    *,
    allow_count_mismatch: bool = False,
    allow_symlinks: bool = False,
) -> Corpus:
    """Read a dataset's release and check it against its entry.

    Raises:
        PipelineError: the release is not there, or does not fit the entry.
        ExtractError: one of its files is damaged, or a path leaves the data root.
    """
    import pandas as pd

    if not data_root.is_dir():
        raise PipelineError(
            f"data root {data_root} is no folder: give --data-root or set EGMF_DATA"
        )
    release, folder = _read_release(entry, data_root, allow_symlinks)
    checker = _Checker(entry, data_root, folder, allow_symlinks)
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    appends = [column.append for column in columns.values()]
    for row in release.rows:
        for append, value in zip(appends, checker.values(row), strict=True):
            append(value)
    table = pd.DataFrame(columns, dtype=object)
    for column in ("score", "start", "end"):
        table[column] = table[column].astype("float64")
    table["order"] = table["order"].astype("Int64")
    mismatch = _count_mismatch(entry, table["split"])
    if mismatch and not allow_count_mismatch:
        raise PipelineError(
            f"dataset {entry.name!r}: {mismatch}; --allow-count-mismatch goes on with what is there"
        )
    notes = (*release.notes, *_count_notes(release.ignored), *checker.notes())
    return Corpus(table, data_root, notes, mismatch)


def _read_release(
    entry: DatasetEntry, data_root: Path, allow_symlinks: bool
) -> tuple[LayoutTable, str]:
    """Read from the entry's folder, or from the data root where that is the folder itself."""
    missing = []
    for folder in dict.fromkeys((entry.layout.folder, ".")):
        root = resolve_inside(data_root, folder, allow_symlinks=allow_symlinks)
        if not root.is_dir():
            missing.append(f"no folder {root}")
            continue
        request = LayoutRequest(
            root=root,
            manifest_folder=entry.manifest.parent,
            max_seconds=entry.max_seconds,
            allow_symlinks=allow_symlinks,
        )
        try:
            return entry.layout.read(request), folder
        except ReleaseNotFoundError as error:
            missing.append(str(error))
    raise PipelineError(
        f"dataset {entry.name!r}: {'; '.join(missing)}; "
        "say where it lies by --data-root or EGMF_DATA"
        + (f" (to be had from {entry.source})" if entry.source else "")
    )


class _Checker:
    """Turns layout rows into table rows, remembering what a single row cannot tell."""

    def __init__(
        self, entry: DatasetEntry, data_root: Path, folder: str, allow_symlinks: bool
    ) -> None:
        self._entry = entry
        self._data_root = Folder(data_root, allow_symlinks=allow_symlinks)
        self._folder = PurePosixPath(folder)
        self._prefix = "" if folder == "." else f"{self._folder.as_posix()}/"
        self._labels = {word: label.name for label in entry.labels for word in label.spellings()}
        self._origins: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._early_spans: list[str] = []
        self._empty_spans: list[str] = []

    def values(self, row: LayoutRow) -> tuple[Any, ...]:
        """Return one row of the table, in the order of its columns."""
        identity = self._id(row)
        start = self._number(row, "start", row.start)
        end = self._number(row, "end", row.end)
        if start is not None and start < 0:
            self._early_spans.append(identity)
        if end is not None and end <= max(start or 0.0, 0.0):
            self._empty_spans.append(identity)
        split = self._split(row)
        label, score = self._targets(row, split)
        return (
            identity,
            split,
            label,
            score,
            _text(row.text),
            self._language(row),
            _text(row.group),
            self._order(row),
            _text(row.speaker),
            self._path(row, row.media),
            self._path(row, row.audio),
            self._path(row, row.video),
            start,
            end,
        )

    def notes(self) -> list[str]:
        """Return what was found in all rows together."""
        notes = [
            f"{what}: {len(ids)} ({', '.join(ids[:3])}{', …' if len(ids) > 3 else ''})"
            for what, ids in (
                ("rows whose span starts before its file and begins at 0", self._early_spans),
                ("rows whose span is empty, so that their media are absent", self._empty_spans),
            )
            if ids
        ]
        if known := [bad.id for bad in self._entry.known_bad if bad.id in self._origins]:
            notes.append(f"{len(known)} items are known to be damaged (known_bad in the manifest)")
        return notes

    def _id(self, row: LayoutRow) -> str:
        identity = row.id
        if (
            (".." in identity and ".." in PurePosixPath(identity).parts)
            or identity.startswith("/")
            or _CONTROL.search(identity)
            or not 0 < len(identity.encode()) <= MAX_ID_BYTES
        ):
            self._refuse(
                row,
                f"id {identity!r:.80} must be 1-{MAX_ID_BYTES} bytes without control characters, "
                "a leading '/' or '..'",
            )
        if identity in self._origins:
            self._refuse(
                row, f"id {identity!r} is already on {self._origins[identity]}; ids must be unique"
            )
        self._origins[identity] = row.origin
        return identity

    def _split(self, row: LayoutRow) -> str:
        split = row.split.strip().lower()
        split = SPLIT_ALIASES.get(split, split)
        if split not in SPLITS:
            self._refuse(
                row,
                f"split {row.split!r} is unknown{nearest(split, SPLITS)}; "
                f"a split is {', '.join(SPLITS)}",
            )
        return split

    def _targets(self, row: LayoutRow, split: str) -> tuple[str | None, float | None]:
        """Return the label and the score that the entry's tasks need."""
        label = score = None
        tasks = self._entry.task
        if "classification" in tasks:
            label = self._label(row)
        if "regression" in tasks:
            # Where scores are all there is, files call them labels.
            score = self._score(row, row.label if row.score is None and len(tasks) == 1 else None)
        for name, value in (("classification", label), ("regression", score)):
            if name in tasks and value is None and split != "unlabelled":
                target = "label" if name == "classification" else "score"
                self._refuse(
                    row,
                    f"{row.id!r} has no {target}, which split {split!r} needs; fill in its column "
                    f"{target!r}, or give it the split 'unlabelled'",
                )
        return label, score

    def _label(self, row: LayoutRow) -> str | None:
        word = _text(row.label)
        if word is None:
            return None
        word = word.strip()
        if word.casefold() not in self._labels:
            self._refuse(
                row,
                f"label {word!r:.80} is unknown{nearest(word.casefold(), self._labels)}; "
                f"known are {', '.join(label.name for label in self._entry.labels)}; correct it, "
                "or add the spelling to a label's aliases",
            )
        return self._labels[word.casefold()]

    def _score(self, row: LayoutRow, instead: str | None) -> float | None:
        score = self._number(row, "score", instead if instead is not None else row.score)
        scores = self._entry.scores
        if score is None or scores is None:
            return score
        if not scores.low - SCORE_TOLERANCE <= score <= scores.high + SCORE_TOLERANCE:
            self._refuse(
                row,
                f"score {score:g} is outside {scores.low:g} to {scores.high:g}; correct it, or "
                "the entry's scores",
            )
        return min(max(score, scores.low), scores.high)

    def _language(self, row: LayoutRow) -> str:
        if self._entry.language != LANGUAGE_PER_ROW:
            return self._entry.language
        language = _text(row.language)
        if language is None:
            self._refuse(row, f"{row.id!r} has no language")
        return language.strip().lower()

    def _number(self, row: LayoutRow, column: str, value: str | float | None) -> float | None:
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self._refuse(row, f"{column} is {value!r:.80}, expected a number")
        return number

    def _order(self, row: LayoutRow) -> int | None:
        number = self._number(row, "order", row.order)
        if number is not None and not number.is_integer():
            self._refuse(row, f"order is {row.order!r:.80}, expected a whole number")
        return None if number is None else int(number)

    def _path(self, row: LayoutRow, path: str | None) -> str | None:
        """Return a path relative to the data root, sure not to leave it."""
        if path is None or not path.strip():
            return None
        if path not in self._paths:
            whole = self._prefix + path
            if _UNTIDY.search(whole):
                whole = (self._folder / path).as_posix()
            try:
                self._data_root.status(whole)
            except ExtractError as error:
                self._refuse(row, str(error))
            except OSError:
                pass  # whoever opens it says why it cannot be
            self._paths[path] = whole
        return self._paths[path]

    def _refuse(self, row: LayoutRow, why: str) -> NoReturn:
        raise PipelineError(f"dataset {self._entry.name!r}, {row.origin}: {why}")


def _text(value: str | None) -> str | None:
    return value if value is not None and value.strip() else None


def _count_notes(ignored: dict[str, int]) -> list[str]:
    return [f"{count} {kind}, ignored" for kind, count in ignored.items()]


def _count_mismatch(entry: DatasetEntry, splits: Iterable[str]) -> str | None:
    """Compare the counts; unlabelled rows are free unless the entry counts them."""
    found = Counter(splits)
    wanted = Counter({str(name): count for name, count in entry.splits.items()})
    names = [name for name in SPLITS if name != "unlabelled" or name in wanted]
    if not wanted or all(wanted[name] == found[name] for name in names):
        return None
    expected = ", ".join(f"{name} {wanted[name]}" for name in names)
    actual = ", ".join(f"{name} {found[name]}" for name in names)
    return f"the manifest expects {expected}; found {actual}"
