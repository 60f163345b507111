"""Encoders and language models keep their meaning in any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract.encoders.base import Settings
from extract.encoders.registry import resolve_encoder
from extract.encoders.weights import Memo
from extract.features import fingerprint_of
from extract.tiny import make_audio_encoder
from pipeline.presets import absolute_spec, encoder_specs


def test_paths_become_absolute_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here", "odd@last4"):
        Path("models", name).mkdir(parents=True)
    for spec, expected in {
        "hf:models/here": f"hf:{tmp_path}/models/here",
        "hf:models/here@last4": f"hf:{tmp_path}/models/here@last4",
        "hf:models/odd@last4@12": f"hf:{tmp_path}/models/odd@last4@12",
        "whisper:models/here@bucket": f"whisper:{tmp_path}/models/here@bucket",
        "open_clip:local-dir:models/here@face": f"open_clip:local-dir:{tmp_path}/models/here@face",
        "open_clip:models/here": "open_clip:models/here",
        "opensmile:models": "opensmile:models",
        "hf:FacebookAI/xlm-roberta-base": "hf:FacebookAI/xlm-roberta-base",
        "whisper:base": "whisper:base",
        "hf:": "hf:",
        "hf:@12": "hf:@12",
        "text": "text",
    }.items():
        assert absolute_spec(spec) == expected
        assert absolute_spec(expected) == expected


def test_tiny_models_are_named_by_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = encoder_specs("tiny", ["audio"], Path("cache"))["audio"]
    assert spec == f"whisper:{tmp_path}/cache/models/tiny/random-whisper/random-whisper.pt"


def test_a_fingerprint_does_not_depend_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = f"whisper:{make_audio_encoder(Path('w'), dim=16)}"
    memo = Memo(tmp_path / "memo.json")
    relative, absolute = (
        resolve_encoder("audio", each, Settings(), memo) for each in (spec, absolute_spec(spec))
    )
    assert relative.spec != absolute.spec
    assert fingerprint_of(relative.ingredients()) == fingerprint_of(absolute.ingredients())
