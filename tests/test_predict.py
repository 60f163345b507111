"""From raw clips to answers: the same as the batch evaluation's, whatever is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from extract import decoding
from pipeline import prediction
from pipeline.commands import extract, predict, train
from pipeline.errors import PipelineError
from pipeline.prediction import Clip, open_run
from tests.helpers_media import tone, write_wav
from tests.poison import CRASHES, HANGS

MANIFEST = """
datasets:
  mini:
    title: Mini
    task: [classification, regression]
    language: row
    labels:
      - {name: anger, en: anger, zh: 愤怒}
      - {name: sadness, en: sadness, zh: 悲伤}
      - {name: neutral, en: neutral, zh: 平静}
      - {name: joy, en: joy, zh: 喜悦}
      - {name: surprise, en: surprise, zh: 惊讶}
    scores: {low: -3, high: 3, step: 0.1}
    splits: {train: 16, valid: 8, test: 8}
    layout: {reader: table, folder: mini, table: utterances.csv}
    protocol: mosi
    generator:
      utterances: {train: 16, valid: 8, test: 8}
      broken: {missing_file: 0, truncated_file: 0, no_audio: 0, no_video: 1, empty_transcript: 0}
"""


def run(module: object, *arguments: object) -> int:
    """Run a command as a console does; returns its exit code."""
    sys.argv = ["egmf", *(str(each) for each in arguments)]
    with pytest.raises(SystemExit) as end:
        module.main()  # type: ignore[attr-defined]
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, its cache and a run of one epoch."""
    folder = tmp_path_factory.mktemp("mini")
    (folder / "mini.yaml").write_text(MANIFEST, encoding="utf-8")
    shared = ["--dataset", "mini", "--manifest", folder / "mini.yaml", "--cache", folder / "cache"]
    shared += ["--preset", "tiny", "--quiet"]
    assert run(extract, *shared, "--data-root", folder / "data", "--workers", 1) == 0
    size = ["--set", "dim=16", "--epochs", 1]
    assert run(train, *shared, "--from-cache", "--runs", folder / "runs", *size) == 0
    return folder


def run_folder(mini: Path) -> Path:
    return mini / "runs" / "mini" / "egmf" / "seed-1111"


def table_of(mini: Path) -> pd.DataFrame:
    return pd.read_csv(mini / "data" / "mini" / "utterances.csv", dtype=str)


def clips_of(mini: Path, rows: pd.DataFrame) -> list[Clip]:
    root = mini / "data" / "mini"
    return [
        Clip(row["id"], root / row["media"], row["text"], row["language"])
        for row in rows.to_dict("records")
    ]


def test_clips_get_the_answers_of_the_evaluation(mini: Path) -> None:
    test = table_of(mini).query("split == 'test'")
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    found = opened.predict(clips_of(mini, test)).table
    expected = pd.read_csv(run_folder(mini) / "predictions-test.csv")
    both = expected.merge(found, on=["id", "task"], suffixes=("", "_now"))
    assert len(both) == len(expected) == 16
    assert (both["answer"] == both["answer_now"]).all()
    for column in ("probability", "gate_modality_audio", "gate_local_visual"):
        assert (both[column] - both[f"{column}_now"]).abs().max() < 1e-4


def test_what_is_missing_is_masked_and_said(mini: Path) -> None:
    row = table_of(mini).query("split == 'test'").iloc[0]
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    found = opened.predict([Clip("a", text=row["text"], language="en")])
    weights = found.table[["gate_modality_text", "gate_modality_audio", "gate_modality_visual"]]
    assert (weights == [1.0, 0.0, 0.0]).all().all()
    assert [each.reason for each in found.set_aside["audio"]] == ["no file given"]
    assert found.set_aside["text"] == []


def test_a_clip_of_which_nothing_can_be_read_gets_no_answer(
    mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no media at all")
    code = run(
        predict, broken, "--run", run_folder(mini), "--manifest", mini / "mini.yaml",
        "--language", "en", "--json",
    )  # fmt: skip
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert code == 0
    assert [each["valid"] for each in found] == [False, False]
    assert [each["prediction"] for each in found] == [None, None]
    assert "audio is absent: cannot be opened as media" in captured.err


def test_the_command_on_a_file(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = table_of(mini).query("split == 'test'").iloc[0]
    clip = mini / "data" / "mini" / row["media"]
    code = run(
        predict, clip, "--run", run_folder(mini), "--manifest", mini / "mini.yaml",
        "--text", row["text"], "--language", row["language"], "--json",
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    expected = pd.read_csv(run_folder(mini) / "predictions-test.csv").set_index(["id", "task"])
    assert {each["task"] for each in found} == {"classification", "regression"}
    for each in found:
        assert each["answer"] == str(expected.loc[(row["id"], each["task"]), "answer"])


def test_a_table_resumes_where_it_stopped(
    mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = mini / "data" / "mini", tmp_path / "out.csv"
    rows = table_of(mini).query("split == 'test'")[["id", "media", "text", "language"]]
    rows.head(3).to_csv(root / "some.csv", index=False)
    rows.to_csv(root / "all.csv", index=False)
    shared = ["--run", run_folder(mini), "--manifest", mini / "mini.yaml", "--out", out]
    assert run(predict, "--table", root / "some.csv", *shared) == 0
    first = out.read_text()
    assert run(predict, "--table", root / "all.csv", *shared) == 0
    assert out.read_text().startswith(first)
    assert "holds 3 of 8 already" in capsys.readouterr().err
    assert len(pd.read_csv(out)) == 16
    assert run(predict, "--table", root / "all.csv", *shared) == 0
    assert len(pd.read_csv(out)) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file"),
        ([], "give either media files or --table"),
        (["--table", "climbs.csv"], "climbs with '..'"),
        (["--table", "twice.csv"], "twice.csv line 3: id 'a' stands twice"),
        (["--table", "time.csv"], "time.csv line 2: 'soon' is no number of seconds"),
    ],
)
def test_mistakes_are_said_in_one_line(
    mini: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("climbs.csv").write_text("id,media\na,../b.mp4\n")
    Path("twice.csv").write_text("id,text\na,x\na,y\n")
    Path("time.csv").write_text("id,text,start\na,x,soon\n")
    code = run(predict, *arguments, "--run", run_folder(mini), "--manifest", mini / "mini.yaml")
    error = capsys.readouterr().err
    assert code == 1
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_clips_that_kill_or_hold_up_their_decoder_get_a_reason(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_CHILD", "tests.poison")
    monkeypatch.setattr(prediction, "CLIP_SECONDS", 2.0)
    names = (CRASHES, "fine.wav", HANGS)
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    clips = [Clip(name, write_wav(tmp_path / name, tone(0.5)), language="en") for name in names]
    found = opened.predict(clips)
    assert [(each.id, each.reason) for each in found.set_aside["audio"]] == [
        (CRASHES, "its decoder crashed (SIGSEGV)"),
        (HANGS, "its decoder was not done after 2 s"),
    ]
    answered = found.table.groupby("id")["valid"].all()
    assert answered.to_dict() == {CRASHES: False, "fine.wav": True, HANGS: False}


def test_a_run_on_imported_features_refuses_clips(mini: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_folder(mini), copy)
    features = json.loads((copy / "features.json").read_text())
    features["audio"] |= {"encoder": "import:mine", "fingerprinted": {"file": "0"}}
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(PipelineError, match=r"imported audio features \(import:mine\)"):
        open_run(copy, manifest=mini / "mini.yaml")


def test_another_encoder_is_refused(mini: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_folder(mini), copy)
    features = json.loads((copy / "features.json").read_text())
    features["text"]["fingerprint"] = "0" * 64
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(PipelineError, match="text features were made with another"):
        open_run(copy, manifest=mini / "mini.yaml")
