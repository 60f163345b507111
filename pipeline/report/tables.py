"""A table as every output format needs it: printed text beside the exact value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column; `key` names it in CSV, where a spread gets a second column `{key}_sd`."""

    key: str
    title: str
    numeric: bool = True
    spread: bool = False


@dataclass(frozen=True)
class Cell:
    """One printed figure or text, with the exact value and spread for CSV."""

    text: str
    value: float | int | str | None = None
    spread: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table; a baseline is set apart from what was trained."""

    cells: tuple[Cell, ...]
    baseline: bool = False


@dataclass(frozen=True)
class Table:
    """A named table with its notes.

    `name` becomes the file name of its CSV and LaTeX; `measured` is false for figures of others.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    intro: str = ""
    notes: tuple[str, ...] = ()
    measured: bool = True


def text_cell(text: str) -> Cell:
    """Make a cell whose exact value is its text."""
    return Cell(text, text)
