"""From raw clips to answers: the same as the batch evaluation's, whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from extract import decoding
from extract.jobs import Job
from generate.language_model import LanguageModel
from pipeline import prediction
from pipeline.clips import clips_of_table
from pipeline.commands import predict
from pipeline.errors import PipelineError
from pipeline.prediction import Clip, open_run
from tests.helpers_media import tone, write_wav
from tests.helpers_predict import judge, run, table_of, train_run
from tests.poison import CRASHES, HANGS


@pytest.fixture(scope="module")
def numbers(mini: Path) -> Path:
    """A run that learned one of the two tasks."""
    return train_run(mini, "--tasks", "regression", experiment="numbers")


def run_folder(mini: Path, experiment: str = "egmf") -> Path:
    return mini / "runs" / "mini" / experiment / "seed-1111"


def copy_run(mini: Path, tmp_path: Path, **config: object) -> Path:
    """Copy the run and change its configuration."""
    copy = tmp_path / "run"
    shutil.copytree(run_folder(mini), copy)
    known = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump(known | config))
    return copy


def clips_of(mini: Path, rows: pd.DataFrame) -> list[Clip]:
    root = mini / "data" / "mini"
    return [
        Clip(row["id"], root / row["media"], row["text"], row["language"])
        for row in rows.to_dict("records")
    ]


def test_clips_get_the_answers_of_the_evaluation(mini: Path) -> None:
    test = table_of(mini)
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    found = opened.predict(clips_of(mini, test)).table
    expected = pd.read_csv(run_folder(mini) / "predictions-test.csv")
    both = expected.merge(found, on=["id", "task"], suffixes=("", "_now"))
    assert len(both) == len(expected) == 16
    assert (both["answer"] == both["answer_now"]).all()
    for column in ("probability", "gate_modality_audio", "gate_local_visual"):
        assert (both[column] - both[f"{column}_now"]).abs().max() < 1e-4


def test_what_is_missing_is_masked_and_said(mini: Path) -> None:
    row = table_of(mini).iloc[0]
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
    code = judge(mini, broken, "--language", "en", "--json")
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert code == 0
    assert [each["valid"] for each in found] == [False, False]
    assert [each["prediction"] for each in found] == [None, None]
    assert "audio is absent: cannot be opened as media" in captured.err


def test_the_command_on_a_file(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = table_of(mini).iloc[0]
    clip = mini / "data" / "mini" / row["media"]
    code = judge(mini, clip, "--text", row["text"], "--language", row["language"], "--json")
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
    rows = table_of(mini)[["id", "media", "text", "language"]]
    rows.head(3).to_csv(root / "some.csv", index=False)
    rows.to_csv(root / "all.csv", index=False)
    assert judge(mini, "--table", root / "some.csv", "--out", out) == 0
    first = out.read_text()
    assert judge(mini, "--table", root / "all.csv", "--out", out) == 0
    assert out.read_text().startswith(first)
    assert "holds 3 of 8 already" in capsys.readouterr().err
    assert len(pd.read_csv(out)) == 16
    assert judge(mini, "--table", root / "all.csv", "--out", out) == 0
    assert len(pd.read_csv(out)) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file"),
        ([], "give either media files or --table"),
        (["--table", "climbs.csv"], "climbs with '..'"),
        (["--table", "twice.csv"], "twice.csv line 3: id 'a' stands twice"),
        (["--table", "time.csv"], "time.csv line 2: 'soon' is no number of seconds"),
        (
            ["--table", "spelt.csv"],
            "none of its columns (id, txt) says what to judge; known are",
        ),
        (["clip.wav"], "clip.wav: 'mini' has no language of its own"),
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
    Path("spelt.csv").write_text("id,txt\na,x\n")
    write_wav(Path("clip.wav"), tone(0.2))
    code = judge(mini, *arguments)
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
    copy = copy_run(mini, tmp_path)
    features = json.loads((copy / "features.json").read_text())
    features["audio"] |= {"encoder": "import:mine", "fingerprinted": {"file": "0"}}
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(PipelineError, match=r"imported audio features \(import:mine\)"):
        open_run(copy, manifest=mini / "mini.yaml")


def test_another_encoder_is_refused(mini: Path, tmp_path: Path) -> None:
    copy = copy_run(mini, tmp_path)
    features = json.loads((copy / "features.json").read_text())
    features["text"]["fingerprint"] = "0" * 64
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(PipelineError, match="text features were made with another"):
        open_run(copy, manifest=mini / "mini.yaml")


def test_an_encoder_that_is_not_here_is_named(mini: Path, tmp_path: Path) -> None:
    copy = copy_run(mini, tmp_path)
    features = json.loads((copy / "features.json").read_text())
    features["audio"]["encoder"] = "whisper:gone/away/tiny.pt"
    (copy / "features.json").write_text(json.dumps(features))
    message = "made with whisper:gone/away/tiny.pt, which is not to be had here: .*no checkpoint"
    with pytest.raises(PipelineError, match=message):
        open_run(copy, manifest=mini / "mini.yaml")


def test_a_language_model_that_is_not_here_is_named(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = copy_run(mini, tmp_path, llm="cache/models/tiny/llm")
    message = "the language model cache/models/tiny/llm, which is not to be had here"
    with pytest.raises(PipelineError, match=message):
        open_run(copy, manifest=mini / "mini.yaml")


def test_a_run_of_an_older_version_is_opened_whatever_its_prompts(
    mini: Path, tmp_path: Path
) -> None:
    before = yaml.safe_load((run_folder(mini) / "config.yaml").read_text())["entry_sha256"]
    copy = copy_run(mini, tmp_path, entry_sha256={**before, "prompts": "0" * 64})
    assert open_run(copy, manifest=mini / "mini.yaml").folder.path == copy


def test_a_run_whose_model_or_questions_have_changed_is_not_opened(
    mini: Path, tmp_path: Path
) -> None:
    before = yaml.safe_load((run_folder(mini) / "config.yaml").read_text())
    copy = copy_run(mini, tmp_path, llm_sha256="0" * 64)
    with pytest.raises(PipelineError, match=r"another version of the language model .*llm; put"):
        open_run(copy, manifest=mini / "mini.yaml")
    (copy / "config.yaml").write_text(yaml.safe_dump(before))
    for part in ("labels", "prompts"):
        known = yaml.safe_load((mini / "mini.yaml").read_text())
        if part == "labels":
            known["datasets"]["mini"]["labels"][0]["en"] = "rage"
        else:
            known["prompts"] = {"en": {"classification": ["Which? {labels} {signals} {text}"]}}
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(known))
        message = f"another version of the manifest's {part} of 'mini'"
        with pytest.raises(PipelineError, match=message):
            open_run(copy, manifest=tmp_path / "changed.yaml")


def test_only_the_tasks_that_a_run_learned_are_asked(mini: Path, numbers: Path) -> None:
    row = table_of(mini).iloc[0]
    opened = open_run(numbers, manifest=mini / "mini.yaml")
    found = opened.predict([Clip("a", text=row["text"], language="en")]).table
    assert found["task"].tolist() == ["regression"]
    assert not [name for name in found if str(name).startswith("probability_")]


def test_blank_text_is_no_text(mini: Path) -> None:
    row = table_of(mini).iloc[0]
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    media = mini / "data" / "mini" / row["media"]
    texts = {"none": None, "empty": "", "blank": "  "}
    found = opened.predict([Clip(name, media, each, "en") for name, each in texts.items()]).table
    assert found["text"].isna().all()
    chances = found.groupby("task")["probability"]
    assert (chances.max() - chances.min()).max() < 1e-5


def test_every_label_has_its_probability(mini: Path) -> None:
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    table = opened.predict(clips_of(mini, table_of(mini).head(2))).table
    labels = ("anger", "sadness", "neutral", "joy", "surprise")
    names = [f"probability_{each}" for each in labels]
    classes = table[table["task"] == "classification"]
    assert classes[names].sum(axis=1).to_numpy() == pytest.approx(1.0)
    assert classes[names].max(axis=1).to_numpy() == pytest.approx(classes["probability"])
    best = classes[names].idxmax(axis=1).str.removeprefix("probability_")
    assert best.tolist() == classes["prediction"].tolist()
    assert table.loc[table["task"] == "regression", names].isna().all().all()


def test_no_clips_give_no_answers(mini: Path) -> None:
    found = open_run(run_folder(mini), manifest=mini / "mini.yaml").predict([]).table
    assert len(found) == 0
    assert "answer" in found


def test_encoders_run_where_the_model_does(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    asked = []

    def encode_rows(job: Job) -> SimpleNamespace:
        asked.append(job.device)
        return SimpleNamespace(features={}, set_aside=[])

    monkeypatch.setattr(prediction, "encode_rows", encode_rows)
    second = replace(opened, model=SimpleNamespace(device=torch.device("cuda:1")))
    second._encode("text", opened.encoders["text"], [Clip("a", text="x")])
    assert asked == ["cuda:1"]


def test_what_the_model_wrote_and_nobody_can_read_is_told_apart(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Free writing can be judged with any run; this one was trained for a moment, and babbles."""
    copy = copy_run(mini, tmp_path)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["settings"]["decision"] = "generate"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(LanguageModel, "write", lambda *given: ["well, hm"])
    code = run(
        predict, *("--run", copy, "--manifest", mini / "mini.yaml"),
        *(write_wav(tmp_path / "a.wav", tone(0.5)), "--text", "x", "--language", "en", "--strict"),
    )  # fmt: skip
    captured = capsys.readouterr()
    assert code == 3
    assert "no answer: the model wrote 'well, hm', which is no permitted answer" in captured.out
    assert "could be read" not in captured.out
    assert "1 of 1 clips without an answer" in captured.err


def test_a_clip_without_an_answer_is_counted_and_explained(
    mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_text("no media at all")
    (tmp_path / "some.csv").write_text("id,media,text\nNA,broken.mp4,\nfine,,Hello\n")
    out = tmp_path / "out.csv"
    arguments = ("--table", tmp_path / "some.csv", "--out", out, "--language", "en")
    assert judge(mini, *arguments) == 0
    assert "1 of 2 clips without an answer" in capsys.readouterr().err
    table = pd.read_csv(out, keep_default_na=False).set_index(["id", "task"])
    assert table.loc[("fine", "regression"), "reason"] == ""
    reason = table.loc[("NA", "regression"), "reason"]
    assert reason.startswith(
        "nothing of the clip could be read (text: no transcript; audio: cannot"
    )
    assert judge(mini, *arguments, "--strict") == 3  # also where nothing is left to do
    assert "holds 2 of 2 already" in capsys.readouterr().err


def test_answers_of_another_run_are_not_taken_for_this_ones(
    mini: Path, numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some.csv").write_text("id,text\na,Hello\n")
    out = tmp_path / "out.csv"
    arguments = ("--table", tmp_path / "some.csv", "--out", out, "--language", "en")
    assert judge(mini, *arguments) == 0
    before = out.read_text()
    assert judge(mini, *arguments, of="numbers") == 1
    error = capsys.readouterr().err
    assert "out.csv: holds answers of mini/egmf/seed-1111@" in error
    assert "these are of mini/numbers/seed-1111@" in error
    assert out.read_text() == before


def test_audio_and_video_stand_in_for_media(mini: Path) -> None:
    """As in a dataset's own table."""
    row, other = (each for _, each in table_of(mini).head(2).iterrows())
    root = mini / "data" / "mini"
    columns = "id,audio,video,media,language,label,split"
    table = root / "apart.csv"
    table.write_text(
        f"{columns}\nboth,,,{row['media']},en,joy,test\n"
        f"apart,{row['media']},{row['media']},{other['media']},en,joy,test\n"
    )
    opened = open_run(run_folder(mini), manifest=mini / "mini.yaml")
    both, apart = clips_of_table(table)
    clips = [both, apart, replace(apart, id="other", audio=None, video=None)]
    found = opened.predict(clips).table.set_index(["task", "id"]).loc["regression", "expectation"]
    assert found["apart"] == pytest.approx(found["both"], abs=1e-5)
    assert found["apart"] != pytest.approx(found["other"], abs=1e-5)


def test_a_table_has_the_context_that_training_had(
    mini: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_run(mini, "--context", 1, "--context-after", 1, experiment="context")
    root, out = mini / "data" / "mini", tmp_path / "out.csv"
    rows = table_of(mini)
    columns = ["id", "media", "text", "language", "group", "order", "speaker"]
    rows[columns].to_csv(root / "dialogues.csv", index=False)
    monkeypatch.setattr("pipeline.commands.predict.CHUNK", 1)
    arguments = ("--table", root / "dialogues.csv", "--out", out)
    assert judge(mini, *arguments, of="context") == 0
    # Another time half of a dialogue is there already, and is context of the rest.
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(each for each in lines if not each.startswith(rows["id"].iloc[1])))
    assert judge(mini, *arguments, of="context") == 0
    assert "holds 7 of 8 already" in capsys.readouterr().err
    expected = pd.read_csv(folder / "predictions-test.csv")
    both = expected.merge(pd.read_csv(out), on=["id", "task"], suffixes=("", "_now"))
    assert len(both) == len(expected) == 16
    assert (both["probability"] - both["probability_now"]).abs().max() < 1e-4
    media = root / rows["media"].iloc[0]
    assert judge(mini, media, "--text", "x", "--language", "en", of="context") == 1
    assert "1 turns before and 1 after" in capsys.readouterr().err


def test_a_cut_transcript_is_said(mini: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = table_of(mini).iloc[0]
    media = mini / "data" / "mini" / row["media"]
    assert judge(mini, media, "--text", "so " * 3000, "--language", "en") == 0
    assert f"{media}: its text was cut to fit the prompt" in capsys.readouterr().err


def test_the_readmes_lines_run_as_pasted(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    [block] = (each for each in blocks if "pipeline.prediction" in each)
    place = tmp_path / "runs" / "meld" / "egmf"
    place.mkdir(parents=True)
    copy_run(mini, place, dataset="meld", entry_sha256={}).rename(place / "seed-1111")
    shutil.copy(mini / "data" / "mini" / table_of(mini)["media"].iloc[0], tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    *statements, last = block.strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(statements), names)
    found = eval(last, names)
    assert found["id"].tolist() == ["a"]
    assert found["valid"].all()
