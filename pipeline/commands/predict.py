"""`egmf-predict`: judge raw clips with a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import (
    Json,
    Quiet,
    Version,
    note,
    print_json,
    progress,
    run_command,
)

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.prediction import Predictions

CHUNK = 32
"""Clips judged at once; a long table is written, and resumes, by this many."""


def predict(
    run: Annotated[Path, typer.Option(help="Folder of a finished run: .../seed-N.")],
    clip: Annotated[list[Path] | None, typer.Argument(help="Media files.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="CSV, JSONL or Parquet with id, media, text, ... in place of clips."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Transcript of the one clip that is given.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of the clips, where the dataset has several.")
    ] = None,
    transcribe: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Whisper model (name or .pt file) that writes missing transcripts; without it "
            "they stay missing.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV to write; clips that it holds are not done again.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Your own manifest, as in training.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: best.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    version: Version = False,
) -> None:
    """Judge raw clips with a trained run: answers, probabilities and gate weights."""
    import pandas as pd

    from pipeline.clips import clips_of_files, clips_of_table, ids_in, transcriber
    from pipeline.devices import choose_device
    from pipeline.errors import PipelineError
    from pipeline.prediction import open_run

    if bool(clip) == bool(table):
        raise PipelineError("give either media files or --table FILE")
    if text is not None and len(clip or ()) != 1:
        raise PipelineError("--text belongs to exactly one clip; use --table for several")
    clips = clips_of_table(table, language) if table else clips_of_files(clip or [], text, language)
    finished = ids_in(out)
    todo = [each for each in clips if each.id not in finished]
    if len(todo) < len(clips):
        note(f"{out}: holds {len(clips) - len(todo):,} of {len(clips):,} already", quiet=quiet)
    trained = open_run(run, manifest=manifest, device=choose_device(device))
    if trained.reads_text and transcribe is not None:
        write = transcriber(transcribe, trained.model.device)
        todo = [write(each) for each in todo]
    found = []
    with progress("predicting", len(todo), "clips", quiet=quiet) as advance:
        for start in range(0, len(todo), CHUNK):
            part = todo[start : start + CHUNK]
            predictions = trained.predict(part)
            _say_set_aside(predictions, quiet=quiet)
            found.append(predictions.table)
            if out is not None:
                _append(predictions.table, out)
            advance(len(part))
    answers = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    _show(answers, out, as_json=as_json)


def main() -> None:
    """Run the command."""
    run_command(predict)


def _say_set_aside(predictions: Predictions, *, quiet: bool) -> None:
    for modality, rows in predictions.set_aside.items():
        for row in rows:
            note(f"{row.id}: {modality} is absent: {row.reason}", quiet=quiet)


def _append(table: pd.DataFrame, out: Path) -> None:
    """Add rows to a CSV in one write, so that a killed run leaves whole chunks."""
    text = table.to_csv(index=False, header=not out.is_file())
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8", newline="") as stream:
        stream.write(text)


def _show(answers: pd.DataFrame, out: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json(answers.astype(object).where(answers.notna(), None).to_dict("records"))
        return
    for row in answers.to_dict("records"):
        weights = ", ".join(
            f"{name.removeprefix('gate_modality_')} {value:.2f}"
            for name, value in ((str(key), each) for key, each in row.items())
            if name.startswith("gate_modality_")
        )
        if not row["valid"]:
            typer.echo(f"{row['id']}: {row['task']}: no answer: nothing of the clip could be read")
            continue
        if row["task"] == "regression":
            answer = f"{row['prediction']:+.2f} (most likely {row['answer']})"
        else:
            answer = f"{row['answer']} (probability {row['probability']:.2f})"
        typer.echo(f"{row['id']}: {row['task']}: {answer}; gate: {weights}")
    if out is not None:
        typer.echo(f"{len(answers):,} answers added to {out}")
