"""`egmf-report`: fill tables and draw figures from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import Json, Quiet, Version, note, print_json, run_command

if TYPE_CHECKING:
    from pipeline.report.build import Format


def main() -> None:
    """Run the command as a console script."""
    run_command(report)


def report(
    runs: Annotated[Path, typer.Option(help="Folder that egmf-train wrote to.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    formats: Annotated[
        str, typer.Option("--format", help="Any of md, csv, latex, html, with commas between.")
    ] = "md,csv,latex,html",
    quiet: Quiet = False,
    json: Json = False,
    version: Version = False,
) -> None:
    """Make tables, figures and one HTML page from all finished runs."""
    chosen = _chosen(formats)
    from pipeline.report.build import build_report

    made = build_report(runs, out, chosen)
    for skipped in made.skipped:
        note(f"left out {skipped.name}: {skipped.reason}", quiet=quiet)
    for section in made.sections:
        for alarm in section.alarms:
            note(f"{section.name}: {alarm}", quiet=quiet)
    if json:
        print_json(
            {
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
        )
        return
    for section in made.sections:
        for card in section.cards:
            typer.echo(f"{section.name}: {card.title} {card.value} ({'; '.join(card.details)})")
    typer.echo(f"{len(made.files)} files, first {made.files[0]}")


def _chosen(text: str) -> tuple[Format, ...]:
    known: tuple[Format, ...] = ("md", "csv", "latex", "html")
    wanted = {name.strip() for name in text.split(",")}
    if unknown := sorted(wanted.difference(known)):
        raise typer.BadParameter(
            f"{', '.join(unknown)}: give any of {', '.join(known)}", param_hint="--format"
        )
    return tuple(name for name in known if name in wanted)
