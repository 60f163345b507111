import math
from pathlib import Path

import pytest

from extract.calibration import Calibration, calibrate, draw_sample, estimate_seconds
from extract.encoders.base import Settings
from extract.encoders.registry import resolve_encoder
from extract.encoders.weights import Memo
from extract.plan import MediaFiles, Row, text_rows
from extract.table import Utterance
from extract.tiny import make_audio_encoder, make_text_encoder
from tests.helpers_media import tone, write_wav

COST = Calibration(
    utterances=4, bytes=10.0, seconds_reading=0.3, seconds_encoding=0.2, seconds_loading=2.0
)


def test_time_is_that_of_the_busiest_worker() -> None:
    assert COST.seconds([10, 10], "cpu", 2, 2) == pytest.approx(2 + 10 * 0.5)
    assert COST.seconds([10, 10, 4], "cpu", 2, 2) == pytest.approx(2 + 14 * 0.5)
    assert COST.seconds([10, 2, 2], "cpu", 2, 2) == pytest.approx(2 + 10 * 0.5)
    # on a GPU, two threads read while it encodes: 0.15 s and 0.2 s
    assert COST.seconds([10], "cuda", 1, 2) == pytest.approx(2 + 10 * 0.2)
    assert COST.seconds([], "cpu", 2, 2) == 2


def test_spans_are_added_up_and_files_estimated(tmp_path: Path) -> None:
    for number in range(100):
        write_wav(tmp_path / f"{number}.wav", tone(0.5 if number % 2 else 1.5))
    (tmp_path / "broken.wav").write_text("no sound")
    files = MediaFiles(tmp_path)

    def rows(*utterances: Utterance) -> list[Row]:
        return files.rows(utterances, "audio")

    spans = rows(
        Utterance("a", "train", audio="0.wav", start=1.0, end=4.5),
        Utterance("b", "train", audio="0.wav", start=0.0, end=90.0),
        Utterance("c", "train", audio="none.wav", start=0.0, end=5.0),
    )
    assert estimate_seconds(spans, 30.0) == (33.5, 0)
    whole = rows(*(Utterance(f"{n}", "train", audio=f"{n}.wav") for n in range(100)))
    seconds, probed = estimate_seconds(whole, 30.0)
    assert probed == 64
    assert seconds == pytest.approx(100, rel=0.05)
    assert estimate_seconds(whole, 1.0)[0] == pytest.approx(75, rel=0.05)
    assert estimate_seconds(rows(Utterance("x", "train", audio="broken.wav")), 30.0) == (0.0, 0)


def test_sizes_are_those_of_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.calibration._SECONDS", math.inf)
    make_audio_encoder(tmp_path / "w", dim=32, window_seconds=2.0)
    for number in range(20):
        write_wav(tmp_path / f"{number}.wav", tone(1.0))
    (tmp_path / "19.wav").write_text("no sound")
    utterances = [Utterance(f"{n}", "train", "a b", audio=f"{n}.wav") for n in range(20)]
    memo = Memo(tmp_path / "memo.json")
    info = resolve_encoder("audio", f"whisper:{tmp_path / 'w' / 'w.pt'}", Settings(), memo)
    rows = MediaFiles(tmp_path).rows(utterances, "audio")
    cost = calibrate(info, Settings(), draw_sample(info, rows), "cpu")
    assert cost is not None
    assert cost.utterances == 7  # of eight, evenly spread, the last is broken
    assert cost.bytes == 50 * (32 * 2 + 4)
    assert cost.seconds_encoding > 0

    make_text_encoder(tmp_path / "bert", ["a b"], dim=32)
    info = resolve_encoder("text", f"hf:{tmp_path / 'bert'}", Settings(), memo)
    cost = calibrate(info, Settings(), draw_sample(info, text_rows(utterances)), "cpu")
    assert cost is not None
    assert (cost.utterances, cost.bytes) == (20, 4 * (32 * 2 + 4))
    absent = draw_sample(info, text_rows([Utterance("a", "train")]))
    assert calibrate(info, Settings(), absent, "cpu") is None
