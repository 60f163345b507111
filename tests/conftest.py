"""Shared fixtures: a small cache with known signals and a small language model."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # two cores, and as many processes, are all that is sure
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import hypothesis
import pytest

from tests.helpers_bad_input import extract, write_place
from tests.helpers_predict import make_corpus, make_whisper, train_run
from tests.helpers_toy import write_toy_cache, write_toy_manifest

hypothesis.settings.register_profile("egmf", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("egmf")


@pytest.fixture(scope="session")
def toy_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small language model, for reading only."""
    from generate.tiny import make_tiny_llm
    from pipeline.manifest import load_manifest

    folder = tmp_path_factory.mktemp("llm") / "tiny"
    prompts = load_manifest().dataset("demo").prompts.values()
    lines = [line for p in prompts for line in (*(p.classification or ()), *(p.regression or ()))]
    make_tiny_llm(folder, [*lines, "anger joy", "愤怒 喜悦", "+0.5 -1.0"], hidden=32, layers=1)
    return folder


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a corpus of clips, its cache and a run, whose Whisper writes words.

    Nothing marks that Whisper's weights as random. For reading only, other runs apart.
    """
    folder = tmp_path_factory.mktemp("mini")
    whisper = make_whisper(folder / "whisper" / "small.pt")
    make_corpus(folder, "--audio", f"whisper:{whisper}")
    train_run(folder)
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Make a folder with `toy.yaml` and `cache/toy`: 96 utterances, three modalities."""
    write_toy_manifest(tmp_path / "toy.yaml")
    write_toy_cache(tmp_path / "cache")
    return tmp_path


@pytest.fixture(scope="session")
def bad_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a corpus with everything wrong that media can be, extracted; for reading only."""
    folder = tmp_path_factory.mktemp("bad")
    write_place(folder)
    ended = extract(folder, "--workers", 1, "--strict", "--json")
    assert ended.code == 3, ended.err  # done, with something set aside
    (folder / "summary.json").write_text(ended.out)
    return folder
