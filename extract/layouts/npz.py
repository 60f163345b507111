"""A corpus whose table lies in a numpy archive, beside features: one array a column and part.

Such archives are how utterance-level features of whole corpora are passed on. Arrays are named by a
pattern (`{part}_id`); order within a dialogue or video, where it is only in the ids, is taken from
them by a pattern too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from extract.archive import Archive, open_archive
from extract.errors import ExtractError
from extract.layouts.base import (
    BaseLayout,
    LayoutRequest,
    LayoutRow,
    LayoutTable,
    ReleaseNotFoundError,
)
from extract.layouts.table import Field
from extract.layouts.templates import Template, fields_of, fill

_ID_FIELDS = {"group": ".+", "order": r"\d+"}


class HeldOut(BaseModel):
    """Rows of the training part that are for validation: where `array` holds `value`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    array: str
    value: str


class NpzLayout(BaseLayout):
    """A table inside an `.npz` archive.

    Attributes:
        file: The archive, relative to the dataset's folder.
        parts: What the names of each split's arrays hold in place of `{part}`.
        arrays: Name of the array that a column is in; `id` is needed.
        id_pattern: How ids are put together from `{group}` and `{order}`.
        held_out: Which rows of the training part are for validation.
    """

    reader: Literal["npz"]
    file: str
    parts: dict[Literal["train", "valid", "test", "unlabelled"], str]
    arrays: dict[Field, Template]
    id_pattern: Template | None = None
    held_out: HeldOut | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "id" not in self.arrays:
            raise ValueError("arrays must name one for 'id'")
        for template in self.arrays.values():
            if set(fields_of(template)) - {"part"}:
                raise ValueError(f"{template!r}: only {{part}} may stand in an array's name")
        if self.id_pattern and set(fields_of(self.id_pattern)) - _ID_FIELDS.keys():
            raise ValueError(f"{self.id_pattern!r}: only {{group}} and {{order}} may stand here")
        return self

    def read(self, request: LayoutRequest) -> LayoutTable:
        """Read every part's arrays."""
        path = request.file(self.file)
        if path is None:
            raise ReleaseNotFoundError([self.file], request.root)
        archive = open_archive(path)
        return LayoutTable(
            tuple(
                row
                for split, part in self.parts.items()
                for row in self._rows(archive, path, split, part)
            )
        )

    def _rows(self, archive: Archive, path: Path, split: str, part: str) -> Iterator[LayoutRow]:
        columns: dict[str, list[str]] = {}
        for field, template in self.arrays.items():
            columns[field] = archive.texts(fill(template, {"part": part}) or "")
        size = len(columns["id"])
        held = [""] * size
        if split == "train" and self.held_out is not None:
            held = archive.texts(self.held_out.array)
        if {len(held), *map(len, columns.values())} != {size}:
            raise ExtractError(f"{path}: the arrays of part {part!r} differ in length")
        pattern = self._compiled()
        for number in range(size):
            origin = f"{path.name}, {part} row {number + 1}"
            values: dict[str, Any] = {
                name: cells[number] or None for name, cells in columns.items()
            }
            if pattern is not None:
                found = pattern.fullmatch(values["id"] or "")
                if found is None:
                    raise ExtractError(
                        f"{origin}: id {values['id']!r:.80} is not of the form {self.id_pattern}"
                    )
                values |= found.groupdict()
            values["split"] = split
            if self.held_out is not None and held[number] == self.held_out.value:
                values["split"] = "valid"
            yield LayoutRow(origin, **values)

    def _compiled(self) -> re.Pattern[str] | None:
        """Return the pattern that takes an id apart."""
        if self.id_pattern is None:
            return None
        literal = re.escape(self.id_pattern).replace(r"\{", "{").replace(r"\}", "}")
        groups = {name: f"(?P<{name}>{kind})" for name, kind in _ID_FIELDS.items()}
        return re.compile(fill(literal, groups) or "")
