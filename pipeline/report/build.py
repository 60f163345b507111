"""Read runs, make every section, write the chosen formats."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from extract.files import publish_text
from pipeline.errors import PipelineError
from pipeline.report.load import Run, SkippedRun, load_runs
from pipeline.report.sections import Section, make_section, transfer_section
from pipeline.report.tables import Table
from pipeline.report.wording import visible
from pipeline.report.writers import csv_text, figure_path, latex_text, markdown_text

Format = Literal["md", "csv", "latex", "html"]
FORMATS: tuple[Format, ...] = ("md", "csv", "latex", "html")


@dataclass(frozen=True)
class Report:
    """What was written; a section a dataset."""

    sections: tuple[Section, ...]
    skipped: tuple[SkippedRun, ...]
    files: tuple[Path, ...]


def build_report(
    runs: Path, out: Path, formats: tuple[Format, ...] = FORMATS, *, cache: Path | None = None
) -> Report:
    """Write the report of all runs below a folder.

    Args:
        runs: Where training wrote.
        out: Where the report goes.
        formats: What is written.
        cache: The cache that the runs read, for transcripts, dialogues and the cost of extraction.

    Raises:
        PipelineError: When there is no run, no finished run, or `out` cannot be written.
    """
    loaded = load_runs(runs)
    if not loaded.runs:
        reasons = "; ".join(f"{run.name}: {run.reason}" for run in loaded.skipped)
        raise PipelineError(
            f"no finished run in {runs} ({reasons}); finish one with: egmf-train --from-cache"
        )
    by_dataset = groupby(loaded.runs, _dataset)
    draw = bool({"html", "md"}.intersection(formats))
    sections = [
        make_section(number, list(members), cache, draw=draw)
        for number, (_, members) in enumerate(by_dataset, start=1)
    ]
    every = [*sections, *transfer_section(loaded.runs)]
    files = _publish(out, _texts(every, loaded.skipped, formats))
    return Report(tuple(sections), loaded.skipped, files)


def write_tables(
    tables: Iterable[Table], out: Path, formats: tuple[Format, ...]
) -> tuple[Path, ...]:
    """Write tables that belong to no report as CSV and LaTeX.

    Raises:
        PipelineError: When `out` cannot be written.
    """
    return _publish(
        out, [text for table in tables for text in _table(table, table.title, table.notes, formats)]
    )


def _publish(out: Path, texts: Iterable[tuple[str, str]]) -> tuple[Path, ...]:
    files: list[Path] = []
    try:
        for name, text in texts:
            publish_text(out / name, text, durable=False)
            files.append(out / name)
    except OSError as error:
        raise PipelineError(f"cannot write the report to {out}: {error}") from error
    return tuple(files)


def _texts(
    sections: Sequence[Section], skipped: Sequence[SkippedRun], formats: tuple[Format, ...]
) -> list[tuple[str, str]]:
    texts = []
    if "html" in formats:
        from pipeline.report.page import html_text

        texts.append(("index.html", html_text(sections, skipped)))
    if "md" in formats:
        texts.append(("report.md", markdown_text(sections, skipped)))
        texts += [
            (figure_path(section, drawing), visible(drawing.file))
            for section in sections
            for drawing in section.drawings
        ]
    for section in sections:
        for table in section.tables:
            if table.quotes:
                continue
            notes = (*table.notes, *(section.notes if table.measured else ()))
            texts += _table(table, f"{section.title}: {table.title}", notes, formats)
    return texts


def _table(
    table: Table, caption: str, notes: Sequence[str], formats: tuple[Format, ...]
) -> list[tuple[str, str]]:
    texts = []
    if "csv" in formats:
        texts.append((f"tables/{table.name}.csv", csv_text(table)))
    if "latex" in formats:
        texts.append((f"tables/{table.name}.tex", latex_text(table, caption, notes)))
    return texts


def _dataset(run: Run) -> str:
    return run.result.dataset
