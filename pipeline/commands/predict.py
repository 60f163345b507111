"""`egmf-predict`: judge raw clips with a trained run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.common import (
    EXIT_SET_ASIDE,
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

TRANSCRIBED_CHUNK = 4
"""The same where Whisper writes transcripts, which takes much longer."""


def predict(
    run: Annotated[Path, typer.Option(help="Folder of a finished run: .../seed-N.")],
    clip: Annotated[list[Path] | None, typer.Argument(help="Media files.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV, JSONL or Parquet with id, media, text, ... in place of clips; with group, "
            "order and speaker for a run with context."
        ),
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
            help="Whisper model (name or .pt file) that writes missing transcripts; 'off' leaves "
            "them missing. Default: the run's own audio encoder, where that is a Whisper.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV to write; clips that it holds are not done again.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Your own manifest, as in training.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: best.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 3 if a clip got no answer.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    version: Version = False,
) -> None:
    """Predict on raw clips with a trained run: answers, probabilities and gate weights.

    A clip without a text is first transcribed by Whisper, where the run reads text.
    """
    import pandas as pd

    from pipeline.answer_file import AnswerFile
    from pipeline.clips import clips_of_files, clips_of_table, parts_of
    from pipeline.devices import choose_device
    from pipeline.errors import PipelineError
    from pipeline.prediction import open_run
    from pipeline.transcribing import transcriber_for

    def say(line: str) -> None:
        note(line, quiet=quiet)

    if bool(clip) == bool(table):
        raise PipelineError("give either media files or --table FILE")
    if text is not None and len(clip or ()) != 1:
        raise PipelineError("--text belongs to exactly one clip; use --table for several")
    clips = clips_of_table(table, language) if table else clips_of_files(clip or [], text, language)
    trained = open_run(run, manifest=manifest, device=choose_device(device))
    trained.check(clips)
    trained.check_context(clips)
    file = AnswerFile(out, trained.name, trained.entry.task) if out else None
    held = {each.id: file.answered[each.id] for each in clips if file and each.id in file.answered}
    if held:
        say(f"{out}: holds {len(held):,} of {len(clips):,} already")
    todo = [each for each in clips if each.id not in held]
    transcriber = transcriber_for(trained, todo, transcribe, say)
    size = CHUNK if transcriber is None else TRANSCRIBED_CHUNK
    found = []
    with progress("predicting", len(todo), "clips", quiet=quiet) as advance:
        for part in parts_of(clips, held, size, whole_groups=trained.reads_context):
            if transcriber is not None:
                part = [transcriber(each) for each in part]
            predictions = trained.predict(part)
            answers = predictions.table[~predictions.table["id"].isin(held)]
            _say_what_is_lacking(predictions, say)
            found.append(answers)
            if file is not None:
                file.append(answers)
            advance(answers["id"].nunique())
    answers = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    _show(answers, out, as_json=as_json)
    unanswered = sum(not answered for answered in held.values())
    if found:
        unanswered += answers.loc[~answers["valid"], "id"].nunique()
    if unanswered:
        where = "" if out is None else f"; the column reason of {out} says why"
        say(f"{unanswered:,} of {len(clips):,} clips without an answer{where}")
        if strict:
            raise typer.Exit(EXIT_SET_ASIDE)


def main() -> None:
    """Run the command."""
    run_command(predict)


def _say_what_is_lacking(predictions: Predictions, say: Callable[[str], None]) -> None:
    for modality, rows in predictions.set_aside.items():
        for row in rows:
            say(f"{row.id}: {modality} is absent: {row.reason}")
    for name in sorted(predictions.shortened):
        say(f"{name}: its text was cut to fit the prompt (--set max_prompt_tokens in training)")


def _show(answers: pd.DataFrame, out: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json(answers.astype(object).where(answers.notna(), None).to_dict("records"))
        return
    for row in answers.to_dict("records"):
        if not row["valid"]:
            typer.echo(f"{row['id']}: {row['task']}: no answer: {row['reason']}")
            continue
        weights = ", ".join(
            f"{name.removeprefix('gate_modality_')} {value:.2f}"
            for name, value in ((str(key), each) for key, each in row.items())
            if name.startswith("gate_modality_")
        )
        if row["task"] == "regression":
            answer = f"{row['prediction']:+.2f} (most likely {row['answer']})"
        else:
            answer = f"{row['answer']} (probability {row['probability']:.2f})"
        typer.echo(f"{row['id']}: {row['task']}: {answer}; gate: {weights}")
    if out is not None:
        typer.echo(f"{len(answers):,} answers added to {out}")
