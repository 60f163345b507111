"""Batches that do not fit in memory are halved, and the record says so."""

from pathlib import Path

import numpy as np
import pytest
import torch

from extract import worker
from extract.batches import Batches
from extract.clock import Clock
from extract.encoders.base import Encoder, Settings, Unit
from extract.encoders.compute import units_in
from extract.encoders.registry import load_encoder, resolve_encoder
from extract.encoders.weights import Memo
from extract.media import Frames
from extract.shards import Features, read_sidecar, sidecar_path
from extract.summary import sum_up_shards
from extract.tiny import make_visual_encoder
from extract.worker import encode_shard
from tests.helpers_extract import audio_jobs, list_corpus, make_model, write_corpus


class LittleMemory:
    """A real encoder on a device whose memory holds only so many units at once."""

    def __init__(self, encoder: Encoder, most: int, message: str = "CUDA out of memory.") -> None:
        self._encoder, self._most, self._message = encoder, most, message
        self.prepare, self.batch_size = encoder.prepare, encoder.batch_size
        self.tried: list[int] = []

    def encode(self, units: list[Unit]) -> list[np.ndarray]:
        self.tried.append(len(units))
        if len(units) > self._most:
            raise torch.OutOfMemoryError(self._message)
        return self._encoder.encode(units)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = make_visual_encoder(tmp_path_factory.mktemp("m") / "clip")
    spec = f"open_clip:local-dir:{folder}"
    memo = Memo(folder.parent / "memo.json")
    return load_encoder(resolve_encoder("visual", spec, Settings(), memo), "cpu")


def pictures(count: int, seed: int) -> Frames:
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(count)]
    return Frames(drawn, np.arange(count, dtype=np.float32))


def encode(encoder: Encoder) -> tuple[dict[str, Features], Batches]:
    batches = Batches(encoder, Clock(), "float32")
    for number in range(4):
        batches.add(str(number), encoder.prepare(pictures(5, number)))
    return batches.finish(), batches


@pytest.mark.parametrize(("most", "sizes"), [(3, [8, 4]), (1, [8, 4, 2])])
def test_halved_batches_give_the_same_features(
    encoder: Encoder, most: int, sizes: list[int]
) -> None:
    expected, whole = encode(encoder)
    little = LittleMemory(encoder, most)
    found, halved = encode(little)
    assert (whole.halvings, halved.halvings) == (0, len(sizes))
    fits = sizes[-1] // 2
    # twenty pictures fill two batches of eight and half of a third; what fits is tried again
    assert little.tried == [*sizes, *[fits] * (24 // fits)]
    for name, one in expected.items():
        ours, theirs = found[name].value, one.value
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        assert ((ours * theirs).sum(axis=1) / norms).min() >= 0.9999
        np.testing.assert_array_equal(found[name].time, one.time)


def test_what_does_not_fit_alone_is_named(encoder: Encoder) -> None:
    found, batches = encode(LittleMemory(encoder, 0))
    assert found == {}
    assert sorted(batches.too_large) == ["0", "1", "2", "3"]


def test_other_errors_are_raised(encoder: Encoder) -> None:
    class Broken(LittleMemory):
        def encode(self, units: list[Unit]) -> list[np.ndarray]:
            self.tried.append(len(units))
            raise RuntimeError("shapes do not match")

    broken = Broken(encoder, 8)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        encode(broken)
    assert broken.tried == [8]


def test_sidecar_report_and_summary_say_that_batches_were_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "root", 8)
    jobs = audio_jobs(tmp_path / "cache", make_model(tmp_path), tmp_path / "root", list_corpus(8))
    monkeypatch.setattr(worker, "_loaded", {})
    assert encode_shard(jobs[0]).halvings == 0
    load = worker.load_encoder
    monkeypatch.setattr(worker, "_loaded", {})
    monkeypatch.setattr(worker, "load_encoder", lambda *args: LittleMemory(load(*args), 2))
    assert encode_shard(jobs[1]).halvings == 2  # from six windows of 1.5 s to three, then to two
    sidecars = [read_sidecar(sidecar_path(jobs[0].folder, number)) for number in (0, 1)]
    assert [(one.device, one.halvings) for one in sidecars] == [("cpu", 0), ("cpu", 2)]
    ids = [f"u{number}" for number in range(8)]
    summary = sum_up_shards("audio", "whisper", "folder", sidecars, ids)
    assert (summary.devices, summary.shards_halved) == (["cpu"], 1)


class NoLongClips(LittleMemory):
    """A device whose memory holds no unit of more than so many rows."""

    def encode(self, units: list[Unit]) -> list[np.ndarray]:
        if max(each.rows for each in units) > self._most:
            raise torch.OutOfMemoryError(self._message)
        return self._encoder.encode(units)


@pytest.mark.parametrize("most", [45, 0])
def test_a_clip_that_does_not_fit_is_set_aside_unless_none_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Of three clips of .8 to 1 s the longest does not fit."""
    write_corpus(tmp_path / "root", 8)
    jobs = audio_jobs(tmp_path / "cache", make_model(tmp_path), tmp_path / "root", list_corpus(8))
    load = worker.load_encoder
    monkeypatch.setattr(worker, "_loaded", {})
    monkeypatch.setattr(worker, "load_encoder", lambda *args: NoLongClips(load(*args), most))
    path = sidecar_path(jobs[1].folder, 1)
    if most == 0:
        with pytest.raises(torch.OutOfMemoryError):
            encode_shard(jobs[1])
        assert not path.exists()
        return
    encode_shard(jobs[1])
    sidecar = read_sidecar(path)
    reasons = {one.id: (one.stage, one.reason) for one in sidecar.quarantined}
    assert reasons["u7"] == ("encode", "does not fit in memory, not even alone")
    assert dict(zip(sidecar.ids, sidecar.rows, strict=True)) == {
        "u4": 0,
        "u5": 40,
        "u6": 45,
        "u7": 0,
    }


def test_batches_hold_as_much_as_their_budget_allows() -> None:
    seconds = {"cpu": 10.0, "cuda": 240.0}
    assert [units_in(seconds, each, "cpu") for each in (2, 5, 10, 15, 30)] == [5, 2, 1, 1, 1]
    assert [units_in(seconds, each, "cuda:1") for each in (2, 30)] == [120, 8]
