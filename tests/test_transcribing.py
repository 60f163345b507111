"""Whisper writes the transcript of a clip that has none, for a run that reads text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import whisper

from extract.encoders.base import RANDOM_MARKER
from pipeline.errors import PipelineError
from pipeline.prediction import Clip, TrainedRun, open_run
from pipeline.transcribing import OFF, transcriber_for
from tests.helpers_media import tone, write_wav
from tests.helpers_predict import judge, make_whisper, table_of


@pytest.fixture(scope="module")
def opened(mini: Path) -> TrainedRun:
    return open_run(mini / "runs" / "mini" / "egmf" / "seed-1111", manifest=mini / "mini.yaml")


@pytest.fixture
def random_weights(mini: Path) -> Iterator[None]:
    """Mark the weights of the run's Whisper as random."""
    marker = mini / "whisper" / RANDOM_MARKER
    marker.touch()
    yield
    marker.unlink()


def media_of(mini: Path, row: int = 0) -> Path:
    return mini / "data" / "mini" / str(table_of(mini)["media"].iloc[row])


def test_the_runs_own_whisper_writes_what_is_missing(
    mini: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = media_of(mini)
    assert judge(mini, media, "--language", "en", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    text = found[0]["text"]
    assert text
    assert found[0]["gate_modality_text"] > 0
    assert judge(mini, media, "--language", "en", "--json", "--text", text) == 0
    given = json.loads(capsys.readouterr().out)
    for one, other in zip(found, given, strict=True):
        assert {k: v for k, v in one.items() if isinstance(v, str)} == {
            k: v for k, v in other.items() if isinstance(v, str)
        }
        assert math.isclose(one["probability"], other["probability"], rel_tol=1e-5)


def test_blank_cells_are_transcribed_and_given_text_is_kept(mini: Path, tmp_path: Path) -> None:
    rows = table_of(mini).head(3)[["id", "media", "text", "language"]].copy()
    rows.iloc[1, 2], rows.iloc[2, 2] = "  ", ""
    table, out = mini / "data" / "mini" / "blank.csv", tmp_path / "out.csv"
    rows.to_csv(table, index=False)
    assert judge(mini, "--table", table, "--out", out) == 0
    texts = pd.read_csv(out).query("task == 'regression'").set_index("id")["text"]
    assert texts[rows["id"].iloc[0]] == rows["text"].iloc[0]
    heard = [texts[rows["id"].iloc[each]] for each in (1, 2)]
    assert all(isinstance(each, str) and each.strip() for each in heard)
    assert heard[0] != heard[1]


def test_rows_are_written_while_others_are_still_to_be_transcribed(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "out.csv", []
    transcribe = whisper.model.Whisper.transcribe

    def watched(model: object, samples: object, **options: object) -> object:
        done.append(len(pd.read_csv(out)["id"].unique()) if out.is_file() else 0)
        return transcribe(model, samples, **options)

    monkeypatch.setattr(whisper.model.Whisper, "transcribe", watched)
    monkeypatch.setattr("pipeline.commands.predict.TRANSCRIBED_CHUNK", 2)
    rows = table_of(mini).head(4)[["id", "media", "language"]]
    table = mini / "data" / "mini" / "mute.csv"
    rows.to_csv(table, index=False)
    assert judge(mini, "--table", table, "--out", out) == 0
    assert done == [0, 0, 2, 2]


def test_the_same_clip_gets_the_same_words(mini: Path, opened: TrainedRun) -> None:
    clip = Clip("a", media_of(mini), language="zh")
    lines: list[str] = []
    write = transcriber_for(opened, [clip], None, lines.append)
    assert write is not None
    assert write(clip) == write(clip)
    assert lines == []


def test_whisper_is_told_the_datasets_language(mini: Path, opened: TrainedRun) -> None:
    clip = Clip("a", media_of(mini))
    texts = {}
    for language in ("en", "zh"):
        run = replace(opened, entry=opened.entry.model_copy(update={"language": language}))
        write = transcriber_for(run, [clip], None, print)
        assert write is not None
        texts[language] = write(clip).text
        assert texts[language] == write(replace(clip, language=language)).text
    assert texts["en"] != texts["zh"]


def test_random_weights_write_nothing_and_that_is_said(
    mini: Path, random_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(mini, media_of(mini), "--language", "en", "--json") == 0
    captured = capsys.readouterr()
    assert "no transcript can be had for 1 clips without text" in captured.err
    assert "random weights" in captured.err
    found = json.loads(captured.out)
    assert [each["text"] for each in found] == [None, None]
    assert [each["valid"] for each in found] == [True, True]


def test_nothing_is_loaded_where_nothing_is_to_be_written(
    mini: Path, opened: TrainedRun, tmp_path: Path
) -> None:
    read = Clip("a", media_of(mini), "Hello")
    gone = Clip("b", tmp_path / "gone.wav")
    assert transcriber_for(opened, [read, gone, Clip("c", text=" ")], None, print) is None
    mute = Clip("d", media_of(mini))
    assert transcriber_for(opened, [mute], OFF, print) is None
    deaf = {name: info for name, info in opened.encoders.items() if name != "text"}
    assert transcriber_for(replace(opened, encoders=deaf), [mute], None, print) is None


def test_a_run_without_whisper_asks_for_one(mini: Path, opened: TrainedRun) -> None:
    audio = replace(opened.encoders["audio"], kind="opensmile", spec="opensmile:eGeMAPSv02")
    run = replace(opened, encoders={**opened.encoders, "audio": audio})
    mute = Clip("d", media_of(mini))
    message = "d: has no text.*opensmile:eGeMAPSv02, which is no Whisper.*--transcribe MODEL"
    with pytest.raises(PipelineError, match=message):
        transcriber_for(run, [mute], None, print)
    named = transcriber_for(run, [mute], str(mini / "whisper" / "small.pt"), print)
    assert named is not None
    assert named(mute.__class__("d", mute.media, language="en")).text


def test_a_clip_that_cannot_be_heard_stays_without_text(
    mini: Path, opened: TrainedRun, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_text("no media at all")
    clip = Clip("a", tmp_path / "broken.mp4", language="en")
    write = transcriber_for(opened, [clip], None, print)
    assert write is not None
    assert write(clip) == clip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense.pt", "nonsense.pt is not a Whisper checkpoint"),
        ("empty.pt", "empty.pt is not a Whisper checkpoint"),
        ("gone.pt", "no checkpoint gone.pt"),
        ("basee", "no Whisper model of that name"),
        ("short.pt", "cannot write transcripts: its window is 5 s"),
        ("wordless.pt", "its vocabulary 256 tokens"),
        ("english.pt", "its language is 'zh', and"),
    ],
)
def test_whispers_that_will_not_do_are_named_in_one_line(
    mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nonsense.pt").write_text("nonsense")
    Path("empty.pt").touch()
    make_whisper(Path("short.pt"), seconds=5.0)
    make_whisper(Path("wordless.pt"), vocabulary=256)
    make_whisper(Path("english.pt"), vocabulary=51_864)
    write_wav(Path("a.wav"), tone(0.5))
    assert judge(mini, "a.wav", "--language", "zh", "--transcribe", name) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert name in error
    assert error.count("\n") == 1
