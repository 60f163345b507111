"""Writing the demo corpus: real files, broken as asked, resumable, never over anybody's own."""

import csv
import hashlib
import io
import json
import shutil

import av
import numpy as np
import pytest

from pipeline.demo import corpus as writer
from pipeline.demo.clip import encode_clip
from pipeline.demo.corpus import ensure_corpus, render_clip
from pipeline.demo.dialogues import draw_utterances
from pipeline.demo.spec import DEFECTS, Broken, DemoSpec, Sizes
from pipeline.errors import PipelineError

SPEC = DemoSpec(
    utterances=Sizes(train=16, valid=8, test=8), broken=Broken(**dict.fromkeys(DEFECTS, 1))
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "demo"
    calls = []
    ensure_corpus(SPEC, folder, lambda done, total: calls.append((done, total)))
    assert calls == [(done, 32) for done in range(1, 33)]
    return folder


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def streams(path):
    with av.open(str(path)) as container:
        found = {}
        for stream in container.streams:
            container.seek(0)
            frames = list(container.decode(stream))
            found[stream.codec_context.name] = frames
        return found


def test_clips_are_what_they_should_be(made):
    for utterance in draw_utterances(SPEC):
        path = made / "clips" / f"{utterance.id}.mp4"
        if utterance.defect == "missing_file":
            assert not path.exists()
        elif utterance.defect == "truncated_file":
            with pytest.raises(av.FFmpegError):
                streams(path)
        else:
            found = streams(path)
            codecs = {"h264", "aac"} - {"no_audio": {"aac"}, "no_video": {"h264"}}.get(
                utterance.defect, set()
            )
            assert set(found) == codecs
            lengths = []
            if "aac" in found:
                assert found["aac"][0].sample_rate == 16_000
                lengths.append(sum(frame.samples for frame in found["aac"]) / 16_000)
            if "h264" in found:
                lengths.append(len(found["h264"]) / 12)
            assert all(0.95 <= length <= 3.1 for length in lengths)
            assert max(lengths) - min(lengths) < 0.2


def test_tables(made):
    rows = list(csv.DictReader((made / "utterances.csv").open(encoding="utf-8")))
    utterances = draw_utterances(SPEC)
    assert [row["id"] for row in rows] == [each.id for each in utterances]
    for row, each in zip(rows, utterances, strict=True):
        assert row["media"] == f"clips/{each.id}.mp4"
        assert row["label"] == each.hidden.emotion
        assert float(row["score"]) == each.hidden.score
        assert (row["text"] == "") == (each.defect == "empty_transcript")
    truth = list(csv.DictReader((made / "truth.csv").open(encoding="utf-8")))
    assert [row["audio_emotion"] for row in truth] == [
        each.cues["audio"].emotion for each in utterances
    ]
    assert not {"emotion", "level", "defect"} & set(rows[0])


def test_second_call_does_nothing(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    ensure_corpus(SPEC, made, lambda *_: pytest.fail("nothing was to be written"))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_killed_run_goes_on(made, tmp_path):
    folder = tmp_path / "demo"

    class Killed(Exception):
        pass

    def kill(done, total):
        if done == 10:
            raise Killed

    with pytest.raises(Killed):
        ensure_corpus(SPEC, folder, kill)
    assert not (folder / "utterances.csv").exists()
    assert json.loads((folder / "corpus.json").read_text())["complete"] is False
    written = len(list((folder / "clips").iterdir()))
    calls = []
    ensure_corpus(SPEC, folder, lambda *call: calls.append(call))
    assert len(calls) == 32 - written
    assert calls[-1] == (32, 32)
    assert digests(folder) == digests(made)


def test_processes_write_the_same_bytes(made, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_FEWEST_FOR_PROCESSES", 1)
    ensure_corpus(SPEC, tmp_path / "demo")
    assert digests(tmp_path / "demo") == digests(made)


def test_another_spec_replaces_our_own_corpus(tmp_path):
    folder = tmp_path / "demo"
    small = DemoSpec(
        utterances=Sizes(train=8, valid=0, test=0), broken=Broken(**dict.fromkeys(DEFECTS, 0))
    )
    ensure_corpus(small, folder)
    (folder / "notes.txt").write_text("mine")
    first = digests(folder)
    ensure_corpus(small.model_copy(update={"seed": 5}), folder)
    second = digests(folder)
    assert second.keys() == first.keys()
    assert all(first[name] != second[name] for name in first if name != "notes.txt")
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("record", ["{", "[]", '{"spec": "00"}'])
def test_a_record_that_is_not_ours_is_refused(tmp_path, record):
    (tmp_path / "corpus.json").write_text(record)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "holiday.mp4").write_text("precious")
    with pytest.raises(PipelineError, match="no record of a demo corpus"):
        ensure_corpus(SPEC, tmp_path)
    assert (tmp_path / "clips" / "holiday.mp4").read_text() == "precious"


def test_a_kill_while_replacing_leaves_nothing_that_looks_finished(made, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    shutil.copytree(made, folder)

    def kill(folder):
        next((folder / "clips").iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_remove", kill)
        with pytest.raises(KeyboardInterrupt):
            ensure_corpus(SPEC.model_copy(update={"seed": 5}), folder)
    ensure_corpus(SPEC, folder)
    assert digests(folder) == digests(made)


def test_somebody_elses_folder_is_refused(tmp_path):
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(PipelineError, match=r"holds files but no corpus\.json"):
        ensure_corpus(SPEC, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(PipelineError, match="no folder"):
        ensure_corpus(SPEC, tmp_path / "demo")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PipelineError, match="demo"):
        ensure_corpus(SPEC, tmp_path / "file" / "demo")


def test_clip_bytes_depend_on_nothing_else():
    utterance = next(each for each in draw_utterances(SPEC) if each.defect is None)
    assert render_clip(SPEC, utterance) == render_clip(SPEC, utterance)


def test_encoded_picture_and_sound_survive():
    frames = np.zeros((12, 64, 64, 3), np.uint8)
    frames[:6, :, :, 0] = 200
    time = np.arange(16_000) / 16_000
    sound = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    with av.open(io.BytesIO(encode_clip(frames, 12, sound, 16_000))) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        container.seek(0)
        samples = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert len(pictures) == 12
    assert pictures[2][:, :, 0].mean() == pytest.approx(200, abs=12)
    assert pictures[9].mean() == pytest.approx(0, abs=12)
    spectrum = np.abs(np.fft.rfft(samples[:16_000]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)
