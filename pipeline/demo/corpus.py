"""Writes the demo corpus: real MP4 files and a table, in the generic `table` layout.

    clips/{id}.mp4      the turns; some missing or broken on purpose
    utterances.csv      what a user's own corpus would hold
    truth.csv           hidden states, cues and defects, for people to look at; no command reads it
    corpus.json         which spec the folder holds, and whether all of it is there

`corpus.json` is written first, marked unfinished, and last again: a killed run goes on with the
clips that are missing, and a folder without it is somebody's own and is never written into. Each
clip depends on the spec and its own id alone, so any process may write any of them.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from extract.files import publish_json, publish_text, publishing, remove_stale
from pipeline.demo.clip import encode_clip, truncate
from pipeline.demo.dialogues import Utterance, draw_utterances, random_stream
from pipeline.demo.face import FRAME_RATE, draw_person, render_face
from pipeline.demo.rhythm import draw_rhythm
from pipeline.demo.spec import MODALITIES, DemoSpec
from pipeline.demo.voice import SAMPLE_RATE, draw_speaker, render_voice
from pipeline.demo.words import Sentence, speak
from pipeline.errors import PipelineError

TABLE, TRUTH, RECORD, CLIPS = "utterances.csv", "truth.csv", "corpus.json", "clips"
_FEWEST_FOR_PROCESSES = 100
_CHUNK = 8


def ensure_corpus(
    spec: DemoSpec, folder: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Make the corpus of `spec` in `folder`, unless it is there.

    A corpus of another spec that was made here is replaced; files of anybody else are not touched.

    Args:
        spec: What to make.
        folder: Where; made if need be.
        progress: Called with the number of clips written and wanted.

    Raises:
        PipelineError: the folder holds something else, or cannot be written.
    """
    record = _read_record(folder)
    wanted = {"spec": spec.digest(), "complete": True}
    if record == wanted:
        return
    try:
        if record is None and folder.is_dir() and any(folder.iterdir()):
            raise PipelineError(
                f"{folder} holds files but no {RECORD}, so it is no demo corpus: "
                "move them away, or give another --data-root"
            )
        if record is not None and record["spec"] != wanted["spec"]:
            publish_json(folder / RECORD, {**record, "complete": False})
            _remove(folder)
        publish_json(folder / RECORD, {**wanted, "complete": False})
        utterances = draw_utterances(spec)
        _write_clips(spec, utterances, folder, progress)
        os.sync()  # all clips at once, before the record that vouches for them
        publish_text(folder / TABLE, _to_csv(_table_rows(spec, utterances)))
        publish_text(folder / TRUTH, _to_csv(map(_truth_row, utterances)))
        publish_json(folder / RECORD, wanted)
    except OSError as error:
        raise PipelineError(
            f"{error.filename or folder}: the demo corpus cannot be written: {error.strerror}"
        ) from error


def draw_sentence(spec: DemoSpec, utterance: Utterance) -> Sentence:
    """Return what is said in an utterance, whether or not its transcript is kept."""
    scene = int(random_stream(spec.seed, utterance.group, "scene").integers(1 << 16))
    words = random_stream(spec.seed, utterance.id, "words")
    return speak(utterance.cues["text"], utterance.language, scene, words)


def render_clip(spec: DemoSpec, utterance: Utterance) -> bytes | None:
    """Return the MP4 of an utterance with its defect, or None where the file is missing."""
    defect = utterance.defect
    if defect == "missing_file":
        return None
    syllables = draw_sentence(spec, utterance).syllables
    rhythm = draw_rhythm(syllables, random_stream(spec.seed, utterance.id, "rhythm"))
    frames = sound = None
    if defect != "no_video":
        person = draw_person(random_stream(spec.seed, utterance.speaker, "face"))
        rng = random_stream(spec.seed, utterance.id, "face")
        frames = render_face(utterance.cues["visual"], person, rhythm, rng)
    if defect != "no_audio":
        speaker = draw_speaker(random_stream(spec.seed, utterance.speaker, "voice"))
        rng = random_stream(spec.seed, utterance.id, "voice")
        sound = render_voice(utterance.cues["audio"], speaker, rhythm, rng)
    clip = encode_clip(frames, FRAME_RATE, sound, SAMPLE_RATE)
    return truncate(clip) if defect == "truncated_file" else clip


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Return what `corpus.json` says, or None if there is none."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise PipelineError(f"{folder} is no folder: give another --data-root") from None
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.keys() != {"spec", "complete"}:
        # Records are published whole: one that cannot be read is not ours to write over.
        raise PipelineError(
            f"{folder / RECORD} is no record of a demo corpus: "
            f"remove {folder}, or give another --data-root"
        )
    return record


def _remove(folder: Path) -> None:
    if (folder / CLIPS).is_dir():
        shutil.rmtree(folder / CLIPS)
    for name in (TABLE, TRUTH):
        (folder / name).unlink(missing_ok=True)


def _write_clips(
    spec: DemoSpec,
    utterances: list[Utterance],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    clips = folder / CLIPS
    clips.mkdir(parents=True, exist_ok=True)
    remove_stale(clips)
    there = {path.name for path in clips.iterdir()}
    jobs = [(spec, item, clips) for item in utterances if f"{item.id}.mp4" not in there]
    for done, _ in enumerate(_run(jobs), start=len(utterances) - len(jobs) + 1):
        if progress:
            progress(done, len(utterances))


def _run(jobs: list[tuple[DemoSpec, Utterance, Path]]) -> Iterator[None]:
    """Write clips, in processes where there are enough of them to pay for starting those."""
    if len(jobs) < _FEWEST_FOR_PROCESSES:
        yield from map(_write_clip, jobs)
        return
    # Spawned, not forked: the caller may hold threads (dask, torch) that a fork would break.
    with ProcessPoolExecutor(_cores(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write_clip, jobs, chunksize=_CHUNK)


def _write_clip(job: tuple[DemoSpec, Utterance, Path]) -> None:
    spec, utterance, clips = job
    data = render_clip(spec, utterance)
    if data is not None:
        with publishing(clips / f"{utterance.id}.mp4", durable=False) as temporary:
            temporary.write_bytes(data)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _table_rows(spec: DemoSpec, utterances: list[Utterance]) -> Iterator[dict[str, Any]]:
    for utterance in utterances:
        silent = utterance.defect == "empty_transcript"
        yield {
            "id": utterance.id,
            "split": utterance.split,
            "language": utterance.language,
            "group": utterance.group,
            "order": utterance.order,
            "speaker": utterance.speaker,
            "text": "" if silent else draw_sentence(spec, utterance).text,
            "media": f"{CLIPS}/{utterance.id}.mp4",
            "label": utterance.hidden.emotion,
            "score": utterance.hidden.score,
        }


def _truth_row(utterance: Utterance) -> dict[str, Any]:
    row = {"id": utterance.id, "emotion": utterance.hidden.emotion, "level": utterance.hidden.level}
    for modality in MODALITIES:
        cue = utterance.cues[modality]
        row |= {f"{modality}_emotion": cue.emotion, f"{modality}_level": cue.level}
    return {**row, "defect": utterance.defect or ""}


def _to_csv(rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()
