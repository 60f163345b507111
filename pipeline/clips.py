"""Clips that a user wants judged: from files, from a table, with transcripts written by Whisper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from extract.decoding import CLIP_SECONDS, ChildDecoder
from extract.decoding import Clip as Span
from extract.layouts.cells import read_cells
from extract.media import Audio, MediaError
from extract.paths import resolve_inside
from pipeline.errors import PipelineError
from pipeline.prediction import Clip

WHISPER_SECONDS = 30.0


def clips_of_files(
    files: Sequence[Path], text: str | None = None, language: str | None = None
) -> list[Clip]:
    """Make a clip of each media file, called by its path.

    Raises:
        PipelineError: a file is not there, or is given twice.
    """
    for file in files:
        if not file.is_file():
            raise PipelineError(f"{file}: no such file")
    if len(set(files)) != len(files):
        raise PipelineError("a file is given twice; give each once")
    return [Clip(str(file), file, text, language) for file in files]


def clips_of_table(path: Path, language: str | None = None) -> list[Clip]:
    """Read clips from a CSV, JSONL or Parquet file.

    Columns: `id`, and any of `media` (relative to the table's folder), `text`, `language`, `start`,
    `end`; others are ignored.

    Raises:
        PipelineError: a column or an id is missing, an id stands twice, or a time is no number.
        ExtractError: the file is no table, or a path leads out of its folder.
    """
    cells = read_cells(path)
    clips: dict[str, Clip] = {}
    for place, row in cells.located():
        name = row.get("id")
        if not name:
            raise PipelineError(f"{place}: no id; every clip needs one in the column 'id'")
        if name in clips:
            raise PipelineError(f"{place}: id {name!r} stands twice; give each clip its own")
        media = row.get("media")
        clips[name] = Clip(
            id=name,
            media=resolve_inside(path.parent, media) if media else None,
            text=row.get("text"),
            language=row.get("language") or language,
            start=_seconds(row.get("start"), place),
            end=_seconds(row.get("end"), place),
        )
    if not clips:
        raise PipelineError(f"{path}: holds no clips")
    return list(clips.values())


def ids_in(predictions: Path | None) -> set[str]:
    """Return the clips that a file of predictions holds already.

    Raises:
        PipelineError: there is a file, and it holds no predictions.
    """
    if predictions is None or not predictions.is_file():
        return set()
    try:
        return set(pd.read_csv(predictions, dtype=str, usecols=["id"])["id"])
    except (ValueError, OSError) as error:
        raise PipelineError(
            f"{predictions}: is there and holds no predictions ({error}); name another --out"
        ) from None


def transcriber(model: str, device: torch.device) -> Callable[[Clip], Clip]:
    """Return a function that writes a clip's transcript with Whisper where it has none.

    Args:
        model: a name that Whisper knows, or a checkpoint's path.
        device: where Whisper runs.

    Raises:
        PipelineError: there is no such model here, and it cannot be fetched.
    """
    import whisper

    try:
        loaded = whisper.load_model(model, device=device)
    except (RuntimeError, OSError, KeyError) as error:
        raise PipelineError(
            f"--transcribe {model}: cannot be loaded ({error}); give a Whisper checkpoint that is "
            "here, or the transcript itself with --text or in the table"
        ) from None

    decoder = ChildDecoder(CLIP_SECONDS)  # ends with this process

    def write(clip: Clip) -> Clip:
        if clip.text or clip.media is None:
            return clip
        try:
            audio = decoder.decode(
                Span("audio", clip.media, clip.start, clip.end, WHISPER_SECONDS, fps=0.0)
            )
        except MediaError:
            return clip  # said, with its reason, when the clip's audio is encoded
        assert isinstance(audio, Audio)
        known = clip.language if clip.language in whisper.tokenizer.LANGUAGES else None
        written = loaded.transcribe(audio.samples, language=known, fp16=device.type == "cuda")
        return replace(clip, text=str(written["text"]).strip() or None)

    return write


def _seconds(cell: str | None, place: str) -> float | None:
    if cell is None or not cell.strip():
        return None
    try:
        return float(cell)
    except ValueError:
        raise PipelineError(f"{place}: {cell!r} is no number of seconds") from None
