"""A small corpus with a trained run, and the commands run as a console runs them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.commands import extract, predict, train

if TYPE_CHECKING:
    import pandas as pd

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
SIZE = ("--set", "dim=16", "--epochs", 1)


def run(module: object, *arguments: object) -> int:
    """Run a command as a console does; returns its exit code."""
    sys.argv = ["egmf", *(str(each) for each in arguments)]
    with pytest.raises(SystemExit) as end:
        module.main()  # type: ignore[attr-defined]
    return int(end.value.code or 0)


def make_corpus(folder: Path, *specs: object) -> Path:
    """Make a corpus and its cache in `folder`, which is returned."""
    (folder / "mini.yaml").write_text(MANIFEST, encoding="utf-8")
    assert (
        run(extract, *_shared(folder), "--data-root", folder / "data", "--workers", 1, *specs) == 0
    )
    return folder


def train_run(folder: Path, *options: object, experiment: str = "egmf") -> Path:
    """Train a run of one epoch on the cache in `folder`; returns the run's folder."""
    code = run(
        train, *_shared(folder), "--from-cache", "--runs", folder / "runs", *SIZE,
        "--experiment", experiment, *options,
    )  # fmt: skip
    assert code == 0
    return folder / "runs" / "mini" / experiment / "seed-1111"


def judge(folder: Path, *arguments: object, of: str = "egmf") -> int:
    """Run `egmf-predict` with a run of `folder`; returns its exit code."""
    where = folder / "runs" / "mini" / of / "seed-1111"
    return run(predict, *arguments, "--run", where, "--manifest", folder / "mini.yaml")


def table_of(folder: Path) -> pd.DataFrame:
    """Return the rows of the test split."""
    import pandas as pd

    table = pd.read_csv(folder / "data" / "mini" / "utterances.csv", dtype=str)
    return table.query("split == 'test'")


def make_whisper(path: Path, *, seconds: float = 30.0, vocabulary: int = 51_865) -> Path:
    """Write a checkpoint of Whisper's shape that writes a few random words."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    dims = ModelDimensions(
        n_mels=80,
        n_audio_ctx=round(50 * seconds),
        n_audio_state=16,
        n_audio_head=2,
        n_audio_layer=1,
        n_vocab=vocabulary,
        n_text_ctx=16,
        n_text_state=16,
        n_text_head=2,
        n_text_layer=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Whisper(dims)
        torch.nn.init.normal_(model.decoder.positional_embedding)
        for name, weight in model.decoder.named_parameters():
            if weight.ndim == 2 and "positional" not in name:
                weight.data *= 8  # wide enough for sound and language to change the words
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": asdict(dims), "model_state_dict": model.state_dict()}, path)
    return path


def _shared(folder: Path) -> list[object]:
    return [
        *("--dataset", "mini", "--manifest", folder / "mini.yaml", "--cache", folder / "cache"),
        *("--preset", "tiny", "--quiet"),
    ]
