"""Tables as Markdown, CSV and LaTeX, each with its own escaping."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from pipeline.report.figures import Drawing
from pipeline.report.load import SkippedRun
from pipeline.report.sections import WATERMARK, Section
from pipeline.report.tables import Cell, Row, Table
from pipeline.report.wording import sentence, visible

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "²": r"$^2$",
    "●": r"$\bullet$",
    "→": r"$\rightarrow$",
    "–": "--",
    "−": "$-$",
    "“": "``",
    "”": "''",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#|~$])")
_WIDE = 7
"""A LaTeX table of more columns than this is set wide."""
_LONG = 24
"""A LaTeX column with a text of more characters than this is set as paragraphs."""
_PARAGRAPH = r">{\raggedright\arraybackslash}p{3cm}"


def csv_text(table: Table) -> str:
    """Return a table with exact values; spreads and intervals stand in columns of their own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header: list[str] = []
    for column in table.columns:
        header.append(column.key)
        header += [f"{column.key}_sd"] if column.spread else []
        header += [f"{column.key}_low", f"{column.key}_high"] if column.interval else []
    writer.writerow(header)
    for row in table.rows:
        values: list[object] = []
        for column, cell in zip(table.columns, row.cells, strict=True):
            values.append(cell.value)
            values += [cell.spread] if column.spread else []
            values += (cell.interval or (None, None)) if column.interval else ()
        writer.writerow(["" if value is None else value for value in values])
    return buffer.getvalue()


def latex_text(table: Table, caption: str, notes: Sequence[str]) -> str:
    r"""Return a `table` float with its notes below; it needs booktabs, array and graphicx.

    One of many columns is a `table*`, which takes both columns of a page that has two, and one
    wider than the line is shrunk to it. Long texts wrap. Intervals stand in a smaller line below
    their figures. Text is the cell's exact value: the words that the page adds in other scripts
    need fonts that not every LaTeX has.
    """
    wide = len(table.columns) > _WIDE
    layout = "".join(_latex_column(table, number) for number in range(len(table.columns)))
    kind = "table*" if wide else "table"
    lines = [
        rf"\begin{{{kind}}}",
        rf"\centering\footnotesize\setlength{{\tabcolsep}}{{{3 if wide else 4}pt}}",
        rf"\caption{{{latex_escape(caption)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', table.name)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
        r"\toprule",
        _latex_line(column.title for column in table.columns),
        r"\midrule",
    ]
    before = False
    for row in table.rows:
        if row.baseline and not before and row is not table.rows[0]:
            lines.append(r"\midrule")
        before = row.baseline
        lines.append(" & ".join(_latex_cells(table, row)) + r" \\")
        if any(cell.range for cell in row.cells):
            ranges = (_latex_range(cell.range) for cell in row.cells)
            lines.append(" & ".join(ranges) + r" \\[2pt]")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if notes:
        lines.append(r"\par\smallskip{\scriptsize\raggedright")
        lines += [latex_escape(note) for note in notes]
        lines.append(r"\par}")
    return "\n".join([*lines, rf"\end{{{kind}}}", ""])


def latex_escape(text: str) -> str:
    """Escape what LaTeX would read as a command, and spell out the signs the report uses."""
    parts = text.split("--")  # which LaTeX would join to a dash
    return "-{}-".join("".join(_LATEX.get(sign, sign) for sign in part) for part in parts)


def figure_path(section: Section, drawing: Drawing) -> str:
    """Return where a figure lies beside the Markdown."""
    return f"figures/{section.name}-{drawing.name.removeprefix(f'{section.key}-')}.svg"


def plain_table(table: Table) -> str:
    """Return a table in aligned columns for a terminal, its notes below."""
    lines = [[column.title for column in table.columns]]
    lines += [[cell.text for cell in row.cells] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            text.rjust(width) if column.numeric else text.ljust(width)
            for text, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *aligned, *table.notes])


def markdown_text(sections: Sequence[Section], skipped: Sequence[SkippedRun]) -> str:
    """Return the whole report as one Markdown document."""
    blocks = ["# Results"]
    if skipped:
        blocks.append(f"**{len(skipped)} run folders are not in these tables:**")
        blocks.append(_bullets(f"{run.name}: {run.reason}" for run in skipped))
    for section in sections:
        blocks.append(f"## {markdown_escape(section.title)}")
        blocks.append(markdown_escape(section.summary))
        blocks += [f"**{markdown_escape(sentence(WATERMARK))}**"] if section.random_weights else []
        if section.alarms:
            blocks.append(_bullets(section.alarms, strong=True))
        for part in section.parts:
            blocks.append(f"### {markdown_escape(part.title)}")
            for drawing in part.drawings:
                title = markdown_escape(drawing.title)
                blocks.append(f"**{title}**")
                blocks.append(f"![{title}]({quote(figure_path(section, drawing))})")
                blocks.append(markdown_escape(drawing.caption))
            for table, notes in part.annotated:
                blocks.append(f"**{markdown_escape(table.title)}**")
                blocks += [markdown_escape(table.intro)] if table.intro else []
                blocks.append(_markdown_table(table))
                below = (*notes, *((section.provenance,) if table.measured else ()))
                blocks += [f"<sub>{markdown_escape(note)}</sub>" for note in below]
        if known := [*section.notes, *section.environment]:
            blocks += ["### Data and environment", _bullets(known)]
    return "\n\n".join(blocks) + "\n"


def markdown_escape(text: str) -> str:
    """Escape what Markdown would read as markup, HTML included."""
    text = _MARKDOWN.sub(r"\\\1", visible(" ".join(text.split())))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_table(table: Table) -> str:
    header = [markdown_escape(column.title) for column in table.columns]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [header, rule]
    for row in table.rows:
        lines.append([_markdown_cell(cell) for cell in row.cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    text = markdown_escape(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} ({markdown_escape(cell.range)})" if cell.range else text


def _latex_column(table: Table, number: int) -> str:
    """Return how a column is set: figures to the right, long texts as paragraphs."""
    if table.columns[number].numeric:
        return "r"
    longest = max((len(row.cells[number].text) for row in table.rows), default=0)
    return _PARAGRAPH if number and longest > _LONG else "l"


def _latex_cells(table: Table, row: Row) -> Iterator[str]:
    for column, cell in zip(table.columns, row.cells, strict=True):
        exact = cell.value if not column.numeric and isinstance(cell.value, str) else cell.text
        text = latex_escape(exact)
        yield rf"\textbf{{{text}}}" if cell.best else text


def _latex_range(shown: str) -> str:
    return rf"{{\scriptsize {latex_escape(shown)}}}" if shown else ""


def _latex_line(texts: Iterable[str]) -> str:
    return " & ".join(latex_escape(text) for text in texts) + r" \\"


def _bullets(texts: Iterable[str], *, strong: bool = False) -> str:
    mark = "**" if strong else ""
    return "\n".join(f"- {mark}{markdown_escape(text)}{mark}" for text in texts)
