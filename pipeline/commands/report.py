"""`egmf-report`: fill tables and draw figures from finished runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import Json, Quiet, Version, note, print_json, run_command
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.report.build import Format, Report
    from pipeline.report.tables import Table


def main() -> None:
    """Run the command as a console script."""
    run_command(report)


def report(
    runs: Annotated[Path, typer.Option(help="Folder that egmf-train wrote to.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Cache that the runs read, for transcripts, dialogues and the cost of extraction "
            "[default: EGMF_CACHE, or ./cache where it is].",
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Any of md, csv, latex, html, with commas between.")
    ] = "md,csv,latex,html",
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Compare two experiments of a dataset instead, and print the tables.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
    version: Version = False,
) -> None:
    """Make tables, figures and one HTML page from all finished runs."""
    chosen = _chosen(formats)
    found = _cache(cache)
    if compare:
        _compare(runs, out, found, compare, chosen, json)
        return
    from pipeline.report.build import build_report

    made = build_report(runs, out, chosen, cache=found)
    for skipped in made.skipped:
        note(f"left out {skipped.name}: {skipped.reason}", quiet=quiet)
    for section in made.sections:
        for alarm in section.alarms:
            note(f"{section.name}: {alarm}", quiet=quiet)
    if json:
        print_json(_as_json(made))
        return
    for section in made.sections:
        for card in section.cards:
            typer.echo(f"{section.name}: {card.title} {card.value} ({'; '.join(card.details)})")
    typer.echo(f"{len(made.files)} files, first {made.files[0]}")


def _compare(
    runs: Path,
    out: Path,
    cache: Path | None,
    names: tuple[str, str],
    formats: tuple[Format, ...],
    json: bool,
) -> None:
    from pipeline.report.build import write_tables
    from pipeline.report.compare import compare_experiments
    from pipeline.report.writers import plain_table

    tables = compare_experiments(runs, *names, cache=cache)
    files = write_tables(tables, out, formats)
    if json:
        print_json({"files": [path.as_posix() for path in files], "tables": _rows(tables)})
        return
    for table in tables:
        typer.echo(f"{plain_table(table)}\n")


def _rows(tables: list[Table]) -> dict[str, list[dict[str, object]]]:
    return {
        table.name: [
            {column.key: cell.value for column, cell in zip(table.columns, row.cells, strict=True)}
            for row in table.rows
        ]
        for table in tables
    }


def _as_json(made: Report) -> dict[str, object]:
    return {
        "files": [path.as_posix() for path in made.files],
        "skipped": [{"run": run.name, "reason": run.reason} for run in made.skipped],
        "datasets": {
            section.name: {
                "random_weights": section.random_weights,
                "alarms": list(section.alarms),
            }
            for section in made.sections
        },
    }


def _cache(wanted: Path | None) -> Path | None:
    """Return the cache to read; one that was named has to be there."""
    if wanted is not None:
        if not wanted.is_dir():
            raise PipelineError(f"--cache {wanted}: no such folder")
        return wanted
    usual = Path(os.environ.get("EGMF_CACHE") or "cache")
    return usual if usual.is_dir() else None


def _chosen(text: str) -> tuple[Format, ...]:
    known: tuple[Format, ...] = ("md", "csv", "latex", "html")
    wanted = {name.strip() for name in text.split(",")}
    if unknown := sorted(wanted.difference(known)):
        raise typer.BadParameter(
            f"{', '.join(unknown)}: give any of {', '.join(known)}", param_hint="--format"
        )
    return tuple(name for name in known if name in wanted)
