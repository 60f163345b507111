import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extract.engine import Cluster
from extract.features import list_feature_sets
from extract.table import read_table
from pipeline.commands.extract import main
from tests.helpers_media import grey, tone, write_clip, write_wav

MANIFEST = """
datasets:
  mine:
    title: Mine
    task: classification
    language: en
    labels:
      - {name: sad, en: sad, zh: 悲伤}
      - {name: glad, en: glad, zh: 高兴}
    layout: {reader: table, folder: ., table: table.csv}
    protocol: emotion
    max_seconds: 2
"""
TEXTS = ["so it goes", "how lovely", "", "why not?", "again", "no", "well then", "last"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write eight clips, some of them broken, with a table and a manifest."""
    folder = tmp_path_factory.mktemp("corpus")
    clips = folder / "data" / "clips"
    clips.mkdir(parents=True)
    for number in range(8):
        write_clip(
            clips / f"{number}.mp4",
            pictures=[grey(30 + 20 * number)] * 10,
            sound=tone(1.0, 100 + 50 * number),
        )
    write_clip(clips / "1.mp4", pictures=[grey(50)] * 10)
    write_wav(clips / "2.mp4", tone(1.0))
    (clips / "3.mp4").write_text("This is no video.\n" * 20)
    (clips / "4.mp4").unlink()
    write_clip(clips / "5.mp4", pictures=[grey(90)] * 40, sound=tone(4.0))
    write_table(folder)
    (folder / "mine.yaml").write_text(MANIFEST)
    return folder


def write_table(folder: Path, **changed: dict[int, str]) -> None:
    with (folder / "data" / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "split", "label", "text", "media"])
        for number, text in enumerate(TEXTS):
            row = {"split": "train" if number < 5 else "test", "label": "sad", "text": text}
            row |= {name: values[number] for name, values in changed.items() if number in values}
            writer.writerow([f"u{number}", *row.values(), f"clips/{number}.mp4"])


def run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    """Run the command as a console script would; return exit code, output and errors."""
    arguments = ["egmf-extract", "--cache", str(place / "cache"), "--data-root"]
    arguments += [str(place / "data"), "--manifest", str(place / "mine.yaml")]
    if "--dataset" not in options:
        arguments += ["--dataset", "mine"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--preset", "tiny", "--device", "cpu", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def log_of(dataset: Path) -> list[dict[str, Any]]:
    lines = (dataset / "extract-log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_from_clips_to_features(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("extract.calibration._SECONDS", math.inf)
    code, out, _ = run(place, monkeypatch, capsys, "--dry-run", "--json")
    plan = json.loads(out)[0]
    assert (code, plan["utterances"], plan["splits"]) == (0, 8, {"train": 5, "test": 3})
    assert plan["modalities"]["audio"]["present"] == 7
    text, audio, visual = (plan["modalities"][name] for name in ("text", "audio", "visual"))
    assert (text["shards_to_write"], text["why"], text["reasons"]) == (
        1,
        {"new": 1},
        {"no transcript": 1},
    )
    assert (text["utterances_to_encode"], text["hours"], text["frames"]) == (8, None, None)
    # of the seven files, five last 1 s, one is cut to 2 s and one is no media file
    assert audio["hours_from_files"] == 6
    assert audio["hours"] * 3600 == pytest.approx(7 * 7 / 6, abs=0.3)
    assert visual["frames"] == pytest.approx(4 * 7 * 7 / 6, abs=1)
    assert (audio["measured"], visual["measured"]) == (5, 5)
    assert plan["seconds"] > 0
    assert not (place / "cache" / "mine").exists()

    code, out, err = run(place, monkeypatch, capsys, "--json", "--workers", "1")
    assert code == 0, err
    summary = json.loads(out)
    written = sum(one["megabytes"] for one in summary["modalities"])
    assert plan["megabytes"] == pytest.approx(written, rel=0.6)  # small files: mostly headers
    assert summary["utterances_encoded"] == 24
    reasons = {one["modality"]: one["reasons"] for one in summary["modalities"]}
    unreadable = "cannot be opened as media: Invalid data found when processing input"
    assert reasons == {
        "text": {"no transcript": 1},
        "audio": {"no audio stream": 1, unreadable: 1, "no such file": 1},
        "visual": {"no video stream": 1, unreadable: 1, "no such file": 1},
    }
    flags = {one["modality"]: one["flags"] for one in summary["modalities"]}
    assert flags == {"text": {}, "audio": {"cut_to_2s": 1}, "visual": {"cut_to_2s": 1}}
    assert "24 of 24 items" in err

    table = read_table(place / "cache" / "mine" / "utterances.parquet")
    assert table["id"].tolist() == [f"u{number}" for number in range(8)]
    sets = {one.modality: one for one in list_feature_sets(place / "cache", "mine")}
    assert {name: one.rows_per_second for name, one in sets.items()} == {
        "text": None,
        "audio": 50.0,
        "visual": 4.0,
    }
    assert all(one.random_weights and one.preset == "tiny" for one in sets.values())
    present = {"text": {2}, "audio": {1, 3, 4}, "visual": {2, 3, 4}}
    for name, one in sets.items():
        lengths = one.lengths()
        assert {n for n in range(8) if lengths[f"u{n}"] == 0} == present[name]
        reader = one.reader()
        value, times = reader.read("u0")
        assert value.shape == (lengths["u0"], one.dim)
        assert len(times) == len(value)
        assert np.isfinite(value).all()
    assert sets["visual"].lengths()["u0"] == 4
    assert sets["audio"].lengths()["u5"] == 100  # cut to two seconds
    quarantined = sets["audio"].quarantine()
    assert ("u1", "train", "clips/1.mp4", "open", "no audio stream") in quarantined
    shards = (place / "cache" / "mine").rglob("*.h5")
    assert summary["bytes_written"] == sum(path.stat().st_size for path in shards)
    [line] = log_of(place / "cache" / "mine")
    assert {name: line[name] for name in summary} == summary


def test_second_run_does_nothing_and_starts_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, monkeypatch, capsys)[0] == 0  # done already, unless this test runs alone
    monkeypatch.setattr(Cluster, "start", None)
    write_table(place, split={0: "test"}, label={1: "glad"})
    code, out, _ = run(place, monkeypatch, capsys)
    assert (code, "nothing to do" in out) == (0, True)
    assert "audio: absent: 1 x no such file" in out
    line = log_of(place / "cache" / "mine")[-1]
    assert (line["utterances_encoded"], line["bytes_written"]) == (0, 0)
    table = read_table(place / "cache" / "mine" / "utterances.parquet")
    assert table["split"][0] == "test"
    assert table["label"][1] == "glad"
    code, _, _ = run(place, monkeypatch, capsys, "--strict", "--quiet")
    assert code == 3  # something is set aside
    write_table(place, text={6: "well now"})
    _, out, _ = run(place, monkeypatch, capsys, "--dry-run")
    assert "1 shard with 8 utterances to write (1 changed input; because of 1 utterance)" in out
    assert "nothing to write; 1 shard done" in out
    _, out, _ = run(place, monkeypatch, capsys, "--dry-run", "--json")
    plan = json.loads(out)[0]["modalities"]
    assert {name: one["shards_to_write"] for name, one in plan.items()} == {
        "text": 1,
        "audio": 0,
        "visual": 0,
    }
    write_table(place)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "mime"], "unknown dataset 'mime' (did you mean 'mine'?)"),
        (["--modalities", "text,adio"], "unknown modality 'adio' (did you mean 'audio'?)"),
        (["--text", "hf:/none"], "encoder hf:/none: no directory /none; check the path"),
        (["--visual", "clip"], "visual encoder 'clip' is not a known spec"),
        (["--data-root", "/none"], "data root /none is no folder"),
        (["--audio", "whisper:base@buckets"], "unknown option @buckets (known here: @full or"),
        (["--visual", "hf:none/such@face", "--fetch-only"], "where there is a network and copy"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    code, out, err = run(place, monkeypatch, capsys, *options)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_flag_that_is_none_is_exit_code_2(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, monkeypatch, capsys, "--preset", "huge")[0] == 2
    assert run(place, monkeypatch, capsys, "--limit", "0")[0] == 2


def test_a_modality_that_no_row_has_is_said_loudly(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_bytes((place / "data" / "table.csv").read_bytes())
    options = ("--data-root", str(tmp_path), "--modalities", "audio", "--dry-run")
    code, out, err = run(place, monkeypatch, capsys, *options)
    assert code == 0
    assert (
        f"WARNING: audio: none of the 8 rows has a readable file under {tmp_path} "
        "(first: clips/0.mp4)"
    ) in err
    assert "0 present, 8 absent" in out
    code, _, err = run(place, monkeypatch, capsys, *options[:-1], "--cache", str(tmp_path / "c"))
    assert code == 1
    assert f"mine: nothing to encode: none of the 8 rows has any audio under {tmp_path}" in err


def test_fetch_only_says_where_the_encoders_lie(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(place, monkeypatch, capsys, "--fetch-only", "--json")
    found = json.loads(out)["mine"]
    assert code == 0
    assert Path(found["audio"]).is_file()
    assert Path(found["text"]).is_dir()


def test_released_features_are_taken_by_extraction(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = tmp_path / "CHERMA0723"
    for part in ("train", "dev", "test"):
        records = [{"audio_file": f"{part}{n}.wav", "video_label": "平静"} for n in range(2)]
        (root / "text" / part).mkdir(parents=True)
        (root / f"{part}.json").write_text(json.dumps(records, ensure_ascii=False))
        for number in range(2):
            np.save(root / "text" / part / f"{part}{number}.npy", np.full((3, 5), number, "f4"))
    (root / "text" / "test" / "test1.npy").unlink()
    options = ("--dataset", "cherma", "--data-root", str(tmp_path), "--allow-count-mismatch")

    code, out, _ = run(place, monkeypatch, capsys, *options, "--dry-run")
    assert (code, "text: 5 files to take, 1 absent" in out) == (0, True)
    assert not (place / "cache" / "cherma").exists()
    code, out, err = run(place, monkeypatch, capsys, *options, "--json")
    assert code == 0, err
    summary = json.loads(out)
    [text] = summary["modalities"]
    assert (text["encoder"], text["present"], text["rows"]) == ("released", 5, 15)
    assert (summary["utterances_encoded"], text["reasons"]) == (6, {"no such file": 1})
    assert log_of(place / "cache" / "cherma")[-1]["utterances_encoded"] == 6
    [features] = list_feature_sets(place / "cache", "cherma")
    assert (features.encoder, features.dim) == ("released", 5)
    code, out, _ = run(place, monkeypatch, capsys, *options)
    assert (code, "nothing to do" in out) == (0, True)
    code, _, err = run(place, monkeypatch, capsys, *options, "--text", "hf:x")
    assert (code, "leave --text away" in err) == (1, True)
