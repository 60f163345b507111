"""The generic layout: any table with `id`, `split` and whatever else is known of the utterances.

A file seldom has these very columns, so each can be put together from the file's own
(`audio: "wav/{file}"`), and the split can follow from a column such as the speaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from extract.errors import ExtractError
from extract.layouts.base import (
    BaseLayout,
    LayoutRequest,
    LayoutRow,
    LayoutTable,
    ReleaseNotFoundError,
)
from extract.layouts.cells import Cells, read_cells
from extract.layouts.templates import Template, fields_of, filler
from extract.paths import resolve_inside

Field = Literal[
    "id", "split", "label", "score", "text", "language", "group", "order", "speaker",
    "media", "audio", "video", "start", "end",
]  # fmt: skip

FIELDS = tuple(field.name for field in fields(LayoutRow) if field.name != "origin")


class SplitBy(BaseModel):
    """Splits by the values of one column; rows of no value named here are for training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    valid: tuple[str, ...]
    test: tuple[str, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if both := set(self.valid) & set(self.test):
            raise ValueError(f"{min(both)!r} is in both valid and test")
        return self


class Source(BaseModel):
    """One file and how its columns become those of the utterance table.

    Attributes:
        table: The file, relative to the dataset's folder or else to the manifest's.
        columns: How to put a column together from the file's; the others have their own names.
        split_by: Where the split follows from a column.
        encoding: Of a CSV, TSV or JSONL file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    columns: dict[Field, Template] = {}
    split_by: SplitBy | None = None
    encoding: str = "utf-8"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.split_by is not None and "split" in self.columns:
            raise ValueError("give split_by or a split column, not both")
        return self


class TableLayout(BaseLayout, Source):
    """A table, and where a corpus has several, `more` of them."""

    reader: Literal["table"]
    more: tuple[Source, ...] = ()

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read every table, in the order given."""
        rows = [row for source in (self, *self.more) for row in _read_source(source, request)]
        return LayoutTable(tuple(rows))


def _read_source(source: Source, request: LayoutRequest) -> Iterator[LayoutRow]:
    cells = read_cells(_find(source.table, request), source.encoding)
    fillers = {
        field: filler(template, cells.columns)
        for field, template in _templates(source, cells).items()
    }
    splits_from = None
    if source.split_by is not None:
        _check_split_values(source.split_by, cells)
        splits_from = cells.columns.index(source.split_by.column)
    for origin, row in zip(cells.places(), cells.values, strict=True):
        values: dict[str, Any] = {field: fill(row) for field, fill in fillers.items()}
        if source.split_by is not None and splits_from is not None:
            values["split"] = _split_of(row[splits_from], source.split_by)
        for needed in ("id", "split"):
            if not values[needed]:
                raise ExtractError(f"{origin} has no {needed}")
        yield LayoutRow(origin, **values)


def _find(table: str, request: LayoutRequest) -> Path:
    """Look for the file in the dataset's folder, then beside the manifest."""
    for folder in (request.root, request.manifest_folder):
        path = resolve_inside(folder, table, allow_symlinks=request.allow_symlinks)
        if path.is_file():
            return path
    raise ReleaseNotFoundError([table], request.root)


def _templates(source: Source, cells: Cells) -> dict[str, str]:
    """Return a template for every field that the file can fill.

    Raises:
        ExtractError: a template names a column that is not there, or `id` or `split` has none.
    """
    for field, template in source.columns.items():
        cells.require(fields_of(template), wanted_by=field, remedy="correct layout.columns")
    needed = ["id"]
    if source.split_by is None:
        needed.append("split")
    else:
        column = source.split_by.column
        cells.require([column], wanted_by="split_by", remedy="correct layout.split_by")
    cells.require(
        (field for field in needed if field not in source.columns),
        remedy="add it, or say under layout.columns which of them stands for it",
    )
    own = {name: f"{{{name}}}" for name in FIELDS if name in cells.columns}
    if source.split_by is not None:
        own.pop("split", None)
    return own | dict(source.columns)


def _split_of(value: str | None, rule: SplitBy) -> str:
    if value in rule.valid:
        return "valid"
    return "test" if value in rule.test else "train"


def _check_split_values(rule: SplitBy, cells: Cells) -> None:
    """Refuse a value that no row has: a misspelt speaker would train on the test set."""
    present = cells.column(rule.column)
    for value in (*rule.valid, *rule.test):
        if value not in present:
            raise ExtractError(
                f"{cells.path}: no row has {rule.column} {value!r}, as split_by asks"
            )
