"""`whisper:...@bucket`: shorter windows, chosen by the utterance's own duration."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extract.batches import Batches
from extract.clock import Clock
from extract.encoders.base import Settings
from extract.encoders.registry import load_encoder, resolve_encoder
from extract.encoders.weights import Memo
from extract.errors import ExtractError
from extract.features import fingerprint_of
from extract.media import Audio
from extract.tiny import make_audio_encoder
from tests.helpers_media import tone


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_audio_encoder(tmp_path_factory.mktemp("m") / "w", dim=32, window_seconds=8.0)


def load(checkpoint: Path, option: str):
    memo = Memo(checkpoint.parent / "memo.json")
    return load_encoder(
        resolve_encoder("audio", f"whisper:{checkpoint}{option}", Settings(), memo), "cpu"
    )


def encode(encoder, samples: list[np.ndarray]) -> list[np.ndarray]:
    batches = Batches(encoder, Clock(), "float16")
    for number, one in enumerate(samples):
        batches.add(str(number), encoder.prepare(Audio(one)))
    return [one.value for one in batches.finish().values()]


def test_windows_are_the_smallest_that_hold_the_rest(checkpoint: Path) -> None:
    encoder = load(checkpoint, "@bucket")

    def hops(seconds: float) -> list[tuple[int, int]]:
        units = encoder.prepare(Audio(tone(seconds))).units
        return [(unit.arrays[0].shape[1], unit.rows) for unit in units]

    assert hops(0.5) == [(200, 25)]
    assert hops(2.0) == [(200, 100)]
    assert hops(2.01) == [(500, 101)]
    assert hops(5.5) == [(800, 275)]  # no bucket of 10 s in a window of 8 s
    assert hops(9.0) == [(800, 400), (200, 50)]
    assert hops(16.0) == [(800, 400), (800, 400)]
    assert len(encoder.prepare(Audio(tone(9.0))).time) == 450


def test_rows_equal_whispers_encoder_on_a_shorter_window(checkpoint: Path) -> None:
    """The library's own encoder, its table of positions cut to the bucket's length."""
    import whisper

    model = whisper.load_model(str(checkpoint))
    model.encoder.positional_embedding = model.encoder.positional_embedding[:250]
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(tone(3.0, 300), 80_000))
    with torch.inference_mode():
        expected = model.embed_audio(mel[None])[0, :150].numpy()
    found = encode(load(checkpoint, "@bucket"), [tone(3.0, 300)])[0]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_batch_mates_change_nothing(checkpoint: Path) -> None:
    encoder = load(checkpoint, "@bucket")
    samples = [tone(seconds, 200 + 40 * n) for n, seconds in enumerate((0.5, 1.9, 3, 4, 9, 0.7))]
    together = encode(encoder, samples)
    for one, expected in zip(samples, together, strict=True):
        np.testing.assert_array_equal(encode(encoder, [one])[0], expected)


def test_a_full_window_is_the_same_either_way(checkpoint: Path) -> None:
    samples = [tone(8.0, 300), tone(6.0, 200)]
    found = zip(
        *(encode(load(checkpoint, option), samples) for option in ("", "@bucket")), strict=True
    )
    for full, bucket in found:
        np.testing.assert_array_equal(full, bucket)


def test_context_is_part_of_the_fingerprint(checkpoint: Path) -> None:
    memo = Memo(checkpoint.parent / "memo.json")
    plain, full, bucket = (
        resolve_encoder("audio", f"whisper:{checkpoint}{option}", Settings(), memo)
        for option in ("", "@full", "@bucket")
    )
    prints = [fingerprint_of(one.ingredients()) for one in (plain, full, bucket)]
    assert prints[0] == prints[1] != prints[2]
    assert [one.slug for one in (plain, full, bucket)] == ["w", "w", "w-bucket"]
    with pytest.raises(ExtractError, match=r"unknown option @buckets \(known here: @full or"):
        resolve_encoder("audio", f"whisper:{checkpoint}@buckets", Settings(), memo)
