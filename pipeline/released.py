"""Stage one for a corpus that is released as features: they are taken as they are.

`egmf-extract --dataset cherma` ends with feature sets like any other's, named `released`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extract.importers.cherma import FILES, import_cherma
from extract.importers.store import Stored
from extract.summary import ModalitySummary, Summary
from extract.table import write_table
from extract.worker import peak_memory
from pipeline.corpus import Corpus, build_table
from pipeline.errors import PipelineError
from pipeline.extraction_log import log_run
from pipeline.extraction_plan import Console, Request, check_modalities
from pipeline.importing import listed_rows
from pipeline.manifest import DatasetEntry, load_manifest

_READER = "cherma"


@dataclass(frozen=True)
class ReleasedFiles:
    """What a release holds: utterances, and files by modality."""

    dataset: str
    utterances: int
    files: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Say it in words."""
        yield f"{self.dataset}: {self.utterances:,} utterances, released as features"
        for modality, count in self.files.items():
            yield f"  {modality}: {count:,} files to take, {self.utterances - count:,} absent"


def is_released(request: Request) -> bool:
    """Tell whether a request is for a corpus whose features are released.

    Raises:
        PipelineError: the dataset is unknown, or the request asks for what such a corpus lacks.
    """
    entry = load_manifest(request.manifest).dataset(request.dataset)
    if entry.layout.reader != _READER:
        return False
    if request.specs:
        raise PipelineError(
            f"{entry.name} is released as features, without media or transcripts to encode: leave "
            f"--{next(iter(request.specs))} away, or describe your own files with --manifest"
        )
    if request.splits or request.limit is not None or request.fresh:
        raise PipelineError(
            f"{entry.name} is released as features, which are taken as a whole: leave --split, "
            "--limit and --fresh away"
        )
    return True


def take_released(request: Request, console: Console) -> Summary:
    """Write the table, take what the cache lacks of the release, and sum up what it then holds.

    Raises:
        PipelineError: the manifest or the corpus is wrong.
        ExtractError: the release holds no features of these modalities.
        OSError: the cache cannot be written.
    """
    began = time.monotonic()
    entry, corpus = _corpus(request, console)
    write_table(corpus.table, request.cache / entry.name / "utterances.parquet")
    stored = import_cherma(
        _root(entry, corpus),
        entry.name,
        listed_rows(corpus.table),
        request.cache,
        console.progress,
        modalities=check_modalities(request.modalities),
        allow_symlinks=request.allow_symlinks,
    )
    summary = Summary(
        dataset=entry.name,
        utterances=len(corpus.table),
        modalities=[_summary(one) for one in stored],
        notes=list(corpus.notes),
        count_mismatch=corpus.count_mismatch,
        seconds=time.monotonic() - began,
        peak_memory=peak_memory(),
    )
    log_run(request.cache / entry.name, summary.to_json())
    return summary


def count_released(request: Request, console: Console) -> ReleasedFiles:
    """Count the files that are there, for a dry run.

    Raises:
        PipelineError: the manifest or the corpus is wrong.
    """
    entry, corpus = _corpus(request, console)
    root = _root(entry, corpus)
    names = [name.partition("_") for name in corpus.table["id"]]
    files = {
        modality: sum(
            (root / FILES[modality].format(part=part, stem=stem)).is_file()
            for part, _, stem in names
        )
        for modality in check_modalities(request.modalities)
    }
    return ReleasedFiles(entry.name, len(names), files)


def _corpus(request: Request, console: Console) -> tuple[DatasetEntry, Corpus]:
    entry = load_manifest(request.manifest).dataset(request.dataset)
    corpus = build_table(
        entry,
        request.data_root,
        allow_count_mismatch=request.allow_count_mismatch,
        allow_symlinks=request.allow_symlinks,
    )
    for line in (*corpus.notes, *filter(None, [corpus.count_mismatch])):
        console.note(f"{entry.name}: {line}")
    return entry, corpus


def _root(entry: DatasetEntry, corpus: Corpus) -> Path:
    """Return the release's folder: the entry's, or the data root where that is the release."""
    folder = corpus.root / entry.layout.folder
    return folder if folder.is_dir() else corpus.root


def _summary(one: Stored) -> ModalitySummary:
    return ModalitySummary(
        modality=one.modality,
        encoder=one.encoder,
        features=str(one.folder),
        utterances=one.utterances,
        present=one.present,
        rows=one.rows,
        megabytes=one.bytes / 1e6,
        reasons=one.absent,
        flags=one.flags,
        shards_written=one.shards_written,
        shards_kept=one.shards_kept,
        utterances_encoded=one.utterances_written,
    )
