from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from extract.batches import Batches
from extract.clock import Clock
from extract.encoders.base import Settings
from extract.encoders.registry import load_encoder, resolve_encoder
from extract.encoders.weights import Memo
from extract.errors import ExtractError
from extract.features import fingerprint_of
from extract.media import SAMPLE_RATE, Audio
from tests.helpers_media import tone


def voice(seconds: float, hertz: float) -> np.ndarray:
    noise = np.random.default_rng(round(hertz)).normal(size=round(seconds * SAMPLE_RATE))
    return (tone(seconds, hertz) + 0.01 * noise).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "level", "dim"), [("eGeMAPSv02", "func", 88), ("eGeMAPSv02/lld", "lld", 25)]
)
def test_rows_equal_opensmile_itself(tmp_path: Path, name: str, level: str, dim: int) -> None:
    opensmile = pytest.importorskip("opensmile", reason="needs the extra [opensmile]")
    info = resolve_encoder("audio", f"opensmile:{name}", Settings(), Memo(tmp_path / "memo.json"))
    assert (info.dim, info.stored, info.random_weights) == (dim, "float32", False)
    encoder = load_encoder(info, "cpu")
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel(level))
    sounds = {str(hertz): voice(0.5 + hertz / 400, hertz) for hertz in (120, 180, 240)}
    batches = Batches(encoder, Clock(), info.stored)
    prepared = {key: encoder.prepare(Audio(samples)) for key, samples in sounds.items()}
    for key, one in prepared.items():
        batches.add(key, one)
    for key, found in batches.finish().items():
        expected = smile.process_signal(sounds[key], SAMPLE_RATE).to_numpy()
        assert found.value.dtype == np.float32
        np.testing.assert_array_equal(found.value, expected)
        hops = np.arange(len(expected)) / 100
        np.testing.assert_allclose(found.time, hops, atol=1e-6)
    assert (len(prepared["120"].time) == 1) == (level == "func")


def test_levels_are_different_feature_sets(tmp_path: Path) -> None:
    pytest.importorskip("opensmile", reason="needs the extra [opensmile]")
    memo = Memo(tmp_path / "memo.json")
    one, other = (
        resolve_encoder("audio", f"opensmile:GeMAPSv01b{level}", Settings(), memo)
        for level in ("", "/lld")
    )
    assert fingerprint_of(one.ingredients()) != fingerprint_of(other.ingredients())
    assert (one.slug, other.slug) == ("GeMAPSv01b", "GeMAPSv01b-lld")
    assert (one.rows_per_second, other.rows_per_second) == (None, 100.0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("opensmile:eGeMAPSv99", "openSMILE knows no set 'eGeMAPSv99'"),
        ("opensmile:eGeMAPSv02/func", "no level 'func'; use opensmile:eGeMAPSv02/lld"),
        ("opensmile:eGeMAPSv02@3", "unknown option @3"),
    ],
)
def test_wrong_sets_are_named(tmp_path: Path, spec: str, message: str) -> None:
    pytest.importorskip("opensmile", reason="needs the extra [opensmile]")
    with pytest.raises(ExtractError, match=message):
        resolve_encoder("audio", spec, Settings(), Memo(tmp_path / "memo.json"))


def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ExtractError, match=r"not installed; pip install 'egmf\[opensmile\]'"):
        resolve_encoder("audio", "opensmile:GeMAPS", Settings(), Memo(tmp_path / "memo.json"))
