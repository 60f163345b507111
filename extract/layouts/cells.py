"""Tables of text cells, from CSV, TSV, JSON Lines or Parquet.

Every cell is text until somebody asks for a number: an id such as `0012` keeps its zeros, and an
utterance that reads "None" or "NA" stays an utterance. Lines are remembered, because an error that
does not say which line is no help in a file of ten thousand. Rows are tuples and words that come
again are held once, because a file may well have a million rows.
"""

from __future__ import annotations

import csv
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.errors import ExtractError

DELIMITERS = {".csv": ",", ".tsv": "\t"}

Row = tuple[str | None, ...]

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_WORDS = 100_000  # that are remembered of a column; one of ids or texts soon has no more to share


@dataclass(frozen=True)
class Cells:
    """The cells of one file; an empty cell is None.

    Attributes:
        path: The file.
        columns: Names in the file's order.
        values: The cells of each row, in the columns' order.
        lines: Line of each row in the file (for Parquet its number), from 1.
    """

    path: Path
    columns: tuple[str, ...]
    values: Sequence[Row]
    lines: Sequence[int]

    def rows(self) -> Iterator[dict[str, str | None]]:
        """Yield each row, column to cell."""
        for row in self.values:
            yield dict(zip(self.columns, row, strict=True))

    def places(self) -> Iterator[str]:
        """Yield the words that say where each row is."""
        for line in self.lines:
            yield f"{self.path.name} line {line}"

    def located(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        """Yield each row after the words that say where it is."""
        return zip(self.places(), self.rows(), strict=True)

    def column(self, name: str) -> set[str | None]:
        """Return the different cells of one column."""
        place = self.columns.index(name)
        return {row[place] for row in self.values}

    def require(
        self,
        columns: Iterable[str],
        wanted_by: str = "",
        remedy: str = "use the release's own file",
    ) -> None:
        """Check that the columns are there.

        Raises:
            ExtractError: one is not; the message lists those that are.
        """
        for column in columns:
            if column not in self.columns:
                reason = f" (for {wanted_by})" if wanted_by else ""
                raise ExtractError(
                    f"{self.path} has no column {column!r}{reason}; "
                    f"its columns are {', '.join(self.columns)}; {remedy}"
                )


def read_cells(path: Path, encoding: str = "utf-8") -> Cells:
    """Read a table; its kind is told by the file name's ending.

    Raises:
        ExtractError: the file is missing, empty, damaged, or of another kind or encoding.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        cells = _parse_parquet(path)
    elif suffix in DELIMITERS or suffix in {".jsonl", ".ndjson"}:
        text = decode_text(_read_bytes(path), path, encoding)
        if suffix in DELIMITERS:
            return parse_delimited(text, path, DELIMITERS[suffix])
        cells = _parse_json_lines(text, path)
    else:
        raise ExtractError(f"{path}: a table must end in .csv, .tsv, .jsonl or .parquet")
    if not cells.values:
        raise ExtractError(f"{path} has no rows")
    return cells


def decode_text(data: bytes, path: Path, encoding: str = "utf-8") -> str:
    """Decode a file's bytes, without a byte order mark.

    Raises:
        ExtractError: the bytes are not of this encoding; the message names the line.
    """
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ExtractError(f"{path}: unknown encoding {encoding!r}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ExtractError(
            f"{path} line {line} is not {encoding}: save the file as UTF-8, "
            "or name its encoding in the manifest"
        ) from None


def parse_delimited(text: str, path: Path, delimiter: str = ",") -> Cells:
    """Parse the text of a CSV or TSV file whose first line names the columns.

    Raises:
        ExtractError: no header, a column named twice, a row of another length, or no rows.
    """
    # Not io.StringIO, which holds four bytes for each letter.
    every_line = (found[0] for found in _LINE.finditer(text))
    reader = csv.reader(every_line, delimiter=delimiter, strict=True)
    rows: list[Row] = []
    lines = array("q")
    try:
        columns = [name.strip() for name in next(reader, [])]
        if not any(columns):
            raise ExtractError(f"{path} is empty")
        if twice := {name for name in columns if columns.count(name) > 1}:
            raise ExtractError(f"{path} names column {min(twice)!r} twice")
        once = [_Once() for _ in columns]
        for cells in reader:
            if not cells:
                continue  # a blank line
            if len(cells) != len(columns):
                raise ExtractError(
                    f"{path} line {reader.line_num} has {len(cells)} cells, "
                    f"the header has {len(columns)}"
                )
            rows.append(
                tuple([words[cell] if cell else None for words, cell in zip(once, cells)])  # noqa: B905
            )
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ExtractError(f"{path} line {reader.line_num}: {error}") from None
    if not rows:
        raise ExtractError(f"{path} has no rows")
    return Cells(path, tuple(columns), rows, lines)


class _Once(dict[str, str]):
    """Gives one and the same string for equal ones, as long as there are few of them."""

    def __missing__(self, word: str) -> str:
        if len(self) < _WORDS:
            self[word] = word
        return word


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExtractError(f"{path} cannot be read: {error.strerror}") from None
    if not data.strip():
        raise ExtractError(f"{path} is empty")
    return data


def _parse_json_lines(text: str, path: Path) -> Cells:
    columns: dict[str, None] = {}
    rows: list[dict[str, str | None]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ExtractError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ExtractError(f"{path} line {number}: expected a JSON object")
        try:
            rows.append({name: _cell(value) for name, value in record.items()})
        except TypeError as error:
            raise ExtractError(f"{path} line {number}: {error}") from None
        lines.append(number)
        columns.update(dict.fromkeys(record))
    filled = [tuple([row.get(name) for name in columns]) for row in rows]
    return Cells(path, tuple(columns), filled, lines)


def _parse_parquet(path: Path) -> Cells:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ExtractError(f"{path} cannot be read: no such file") from None
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ExtractError(f"{path} is no readable Parquet file: {reason}") from None
    try:
        columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
    except TypeError as error:
        raise ExtractError(f"{path}: {error}") from None
    rows = list(zip(*columns, strict=True))
    return Cells(path, tuple(table.column_names), rows, range(1, len(rows) + 1))


def _cell(value: object) -> str | None:
    """Write a value as a cell."""
    if value is None or value == "" or value != value:  # NaN differs from itself
        return None
    if isinstance(value, str | int | float):
        text = str(value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise TypeError("a cell holds half of a surrogate pair, which is no text")
        return text
    raise TypeError(f"a cell holds a {type(value).__name__}; only text and numbers fit a table")
