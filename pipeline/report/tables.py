"""A table as every output format needs it: printed text beside the exact value."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column; `key` names it in CSV.

    There a spread gets a column `{key}_sd`, and an interval the columns `{key}_low`, `{key}_high`.
    """

    key: str
    title: str
    numeric: bool = True
    spread: bool = False
    interval: bool = False


@dataclass(frozen=True)
class Cell:
    """One printed figure or text, with the exact value, spread and interval for CSV.

    `range` is the interval as it is printed.
    """

    text: str
    value: float | int | str | None = None
    spread: float | None = None
    best: bool = False
    interval: tuple[float, float] | None = None
    range: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a table; a baseline is set apart from what was trained."""

    cells: tuple[Cell, ...]
    baseline: bool = False


@dataclass(frozen=True)
class Table:
    """A named table with its notes.

    `name` becomes the file name of its CSV and LaTeX. `measured` is false for figures of others.
    `folded` tables are closed on the page until asked for. `quotes` says that a table holds words
    of the corpus: it stands on the page and in the Markdown, and gets no file of its own.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    intro: str = ""
    notes: tuple[str, ...] = ()
    measured: bool = True
    folded: bool = False
    quotes: bool = False


def text_cell(text: str) -> Cell:
    """Make a cell whose exact value is its text."""
    return Cell(text, text)


def interval_cell(bounds: tuple[float, float] | None, show: Callable[[float], str]) -> Cell:
    """Make a cell of an interval alone."""
    if bounds is None:
        return Cell("–")
    low, high = bounds
    return Cell(show_range(bounds, show), f"{low:.6g} to {high:.6g}")


def p_cell(p_value: float) -> Cell:
    """Make a cell of a p-value."""
    return Cell(show_p(p_value), p_value)


def show_range(bounds: tuple[float, float], show: Callable[[float], str]) -> str:
    """Return an interval as it is printed; "to" stays readable beside negative figures."""
    return f"{show(bounds[0])} to {show(bounds[1])}"


def show_p(p_value: float) -> str:
    """Return a p-value as it is printed: three decimals, and a bound below that."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
