"""Which language model a run uses: a preset's, or the one that `--llm` names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from extract.encoders.weights import Memo

PRESET_LLMS = {"base": "Qwen/Qwen2.5-0.5B", "large": "Qwen/Qwen2.5-7B"}
TINY_FOLDER = Path("models") / "tiny" / "llm"
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


@dataclass(frozen=True)
class Llm:
    """A language model's directory or hub id, and whether its weights are random."""

    source: str
    random_weights: bool


def language_model_of(preset: str, named: str | None, cache: Path) -> Llm:
    """Return the language model to use; the tiny one is made in the cache on first use."""
    from generate.tiny import MARKER, make_tiny_llm

    if named is None and preset == "tiny":
        folder = cache / TINY_FOLDER
        make_tiny_llm(folder, _tiny_texts())
        named = str(folder)
    source = named or PRESET_LLMS[preset]
    return Llm(source, (Path(source).expanduser() / MARKER).is_file())


def find_llm(source: str) -> str:
    """Return the directory of a language model, fetched from the hub unless it is there.

    Raises:
        PipelineError: the hub has no such model or cannot be reached.
    """
    from extract.encoders.weights import find_model_folder
    from extract.errors import ExtractError
    from pipeline.errors import PipelineError

    folder = Path(source).expanduser()
    if folder.exists() or source.startswith((".", "~", "/")) or source.count("/") > 1:
        return source  # a directory: what is wrong with it, whoever loads it says
    try:
        return str(find_model_folder(source, f"language model {source}", _FILES, "config.json"))
    except ExtractError as error:
        cause, _, _ = str(error).rpartition("; ")
        raise PipelineError(
            f"{cause or error}; name a directory with --llm, or run egmf-extract --fetch-only "
            "where there is a network, and copy the hub's cache from there"
        ) from error


def place_of(source: str) -> str:
    """Return a directory as an absolute path, however it was typed, and a hub id as it is."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.exists() else source


def digest_of_llm(source: str, memo: Memo) -> str:
    """Return one digest of a language model's weights, tokenizer and configuration.

    Large files are read once; their digests are remembered in `memo`.

    Raises:
        GenerateError: there is no such directory, or no model in it.
        PipelineError: the hub has no such model or cannot be reached.
    """
    from extract.encoders.weights import digest_of_files
    from generate.backbone import check_directory

    check_directory(source)
    folder = Path(find_llm(source)).expanduser()
    files = {each for pattern in (*_FILES, "*.bin") for each in folder.glob(pattern)}
    return digest_of_files(files, memo)


def _tiny_texts() -> Iterator[str]:
    """Yield what the tiny model will read and write, so that its tokens are words, not bytes."""
    from generate.answers import number_answer, number_grid
    from pipeline.demo.words import all_texts
    from pipeline.manifest import load_manifest

    manifest = load_manifest()
    for entry in manifest.datasets.values():
        for prompts in entry.prompts.values():
            for lines in (prompts.classification, prompts.regression):
                yield from lines or ()
        for label in entry.labels:
            yield from (label.en, label.zh)
    yield from (f" {number_answer(x)}" for x in number_grid(-3.0, 3.0))
    yield from all_texts()
