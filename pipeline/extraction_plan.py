"""Plan stage one for one dataset: its table, its encoders, and the shards that are to be written.

Nothing here loads a model or reads a media file, so that a second run, which finds nothing to do,
answers within seconds.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from extract.decoding import CLIP_SECONDS
from extract.encoders.base import EncoderInfo, Settings
from extract.encoders.registry import MODALITIES, resolve_encoder
from extract.encoders.weights import Memo
from extract.features import feature_set_folder, find_feature_set_folder, fingerprint_of
from extract.plan import MediaFiles, Plan, Row, make_plan, rows_in_a_shard, text_rows
from extract.shards import Identity
from extract.table import Utterance, utterances
from pipeline.corpus import Corpus, build_table
from pipeline.errors import PipelineError
from pipeline.llm import find_llm, language_model_of
from pipeline.manifest import DatasetEntry, load_manifest, nearest
from pipeline.presets import absolute_spec, encoder_specs

ROWS_PER_SHARD = 512
ROWS_PER_SHARD_OF_A_DEMO = 64  # small enough to show progress and resuming on a small corpus

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Request:
    """What to extract, and how.

    Attributes:
        dataset: Name of a manifest entry.
        cache: Where features go.
        data_root: Where the dataset's files are looked for.
        manifest: A user's own manifest.
        preset: Which encoders; None is `tiny` for a generated corpus, else `base`.
        specs: Encoders by modality, in place of the preset's.
        modalities: Which modalities; empty is all.
        splits: Only shards that hold rows of these; empty is all.
        limit: Only the first shards, until they hold this many utterances.
        dtype: In which the encoders compute.
        fresh: Encode again what is there.
        allow_count_mismatch: Go on where split sizes differ from the manifest's.
        allow_symlinks: Follow links out of the data root.
        hash_media: Tell media files apart by contents.
        retry_quarantined: Try again what was set aside although its file is there.
        clip_seconds: How long decoding a clip may take before it is set aside.
    """

    dataset: str
    cache: Path
    data_root: Path
    manifest: Path | None = None
    preset: str | None = None
    specs: Mapping[str, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    limit: int | None = None
    dtype: str = "float32"
    fresh: bool = False
    allow_count_mismatch: bool = False
    allow_symlinks: bool = False
    hash_media: bool = False
    retry_quarantined: bool = False
    clip_seconds: float = CLIP_SECONDS

    def preset_for(self, entry: DatasetEntry) -> str:
        """Return the preset to use for a dataset."""
        return self.preset or ("tiny" if entry.generator is not None else "base")


@dataclass(frozen=True)
class Console:
    """How the work is shown: lines of text, and progress over a known total."""

    note: Callable[[str], None]
    progress: Callable[[str, int, str], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class ModalityPlan:
    """One modality: its encoder, its feature set's place, and what is to be encoded."""

    identity: Identity
    info: EncoderInfo
    folder: Path
    preset: str | None
    rows: list[Row]
    plan: Plan

    def present(self) -> int:
        """Return how many utterances have something to encode."""
        return sum(1 for row in self.rows if row.absent is None)


@dataclass(frozen=True)
class DatasetPlan:
    """One dataset, ready to be extracted."""

    request: Request
    entry: DatasetEntry
    corpus: Corpus
    utterances: list[Utterance]
    settings: Settings
    modalities: list[ModalityPlan]

    def rows_todo(self) -> int:
        """Return how many utterances are to be encoded, counted once for each modality."""
        return sum(one.plan.rows_todo() for one in self.modalities)

    def splits(self) -> dict[str, int]:
        """Return how many utterances each split has."""
        return dict(Counter(one.split for one in self.utterances))


def plan_dataset(request: Request, console: Console) -> DatasetPlan:
    """Build the table, find the encoders and plan the shards; nothing of it is written yet.

    Only a generated corpus, a preset's tiny models and weights from a hub come into being.

    Raises:
        PipelineError: the manifest, a flag or the corpus is wrong.
        ExtractError: an encoder or a file is.
    """
    entry = load_manifest(request.manifest).dataset(request.dataset)
    modalities = check_modalities(request.modalities)
    _ensure_generated(entry, request.data_root, console)
    with _collector_paused():
        return _plan_dataset(request, console, entry, modalities)


def _plan_dataset(
    request: Request, console: Console, entry: DatasetEntry, modalities: Sequence[str]
) -> DatasetPlan:
    corpus = build_table(
        entry,
        request.data_root,
        allow_count_mismatch=request.allow_count_mismatch,
        allow_symlinks=request.allow_symlinks,
    )
    for line in (*corpus.notes, *filter(None, [corpus.count_mismatch])):
        console.note(f"{entry.name}: {line}")
    everyone = utterances(corpus.table)
    settings = Settings(max_seconds=entry.max_seconds, dtype=request.dtype)
    preset = request.preset_for(entry)
    encoders = find_encoders(preset, modalities, request.specs, request.cache, settings)
    files = MediaFiles(
        request.data_root.absolute(),
        hash_media=request.hash_media,
        allow_symlinks=request.allow_symlinks,
    )
    plans = []
    for name, info in encoders.items():
        one = _plan_modality(request, console, entry, everyone, files, settings, name, info, preset)
        _warn_if_absent(one, request.data_root, console)
        plans.append(one)
    return DatasetPlan(request, entry, corpus, everyone, settings, plans)


def fetch_models(request: Request) -> dict[str, str]:
    """Fetch or make the models of a request's preset: its encoders and its language model.

    Returns:
        Where each lies, by modality and `llm`.

    Raises:
        PipelineError: the dataset, preset or a modality is unknown.
        ExtractError: a model is not to be had.
    """
    entry = load_manifest(request.manifest).dataset(request.dataset)
    preset = request.preset_for(entry)
    infos = find_encoders(
        preset,
        check_modalities(request.modalities),
        request.specs,
        request.cache,
        Settings(max_seconds=entry.max_seconds, dtype=request.dtype),
    )
    llm = find_llm(language_model_of(preset, None, request.cache).source)
    return {**{name: info.location for name, info in infos.items()}, "llm": llm}


def check_modalities(names: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities that are meant, all of them by default.

    Raises:
        PipelineError: one is unknown.
    """
    for name in names:
        if name not in MODALITIES:
            raise PipelineError(
                f"unknown modality {name!r}{nearest(name, MODALITIES)}; "
                f"known are {', '.join(MODALITIES)}"
            )
    return tuple(name for name in MODALITIES if name in names or not names)


def find_encoders(
    preset: str,
    modalities: Sequence[str],
    specs: Mapping[str, str],
    cache: Path,
    settings: Settings,
) -> dict[str, EncoderInfo]:
    """Return each modality's encoder: the user's own, or the preset's.

    Weights that are not on this machine are made (`tiny`) or fetched.

    Raises:
        PipelineError: the preset is unknown.
        ExtractError: an encoder is not to be had.
    """
    memo = Memo(cache / ".digests.json")
    unnamed = [name for name in modalities if name not in specs]
    own = {name: absolute_spec(spec) for name, spec in specs.items()}
    every = {**encoder_specs(preset, unnamed, cache), **own}
    return {name: resolve_encoder(name, every[name], settings, memo) for name in modalities}


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Do not look for cycles: rows have none, and a million of them take a fifth longer with it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _ensure_generated(entry: DatasetEntry, data_root: Path, console: Console) -> None:
    """Make the corpus of an entry that has a generator, unless it is there."""
    if entry.generator is None:
        return
    from pipeline.demo.corpus import ensure_corpus

    with ExitStack() as stack:
        shown: list[tuple[Advance, list[int]]] = []

        def progress(done: int, total: int) -> None:
            if not shown:
                title = f"{entry.name}: making the corpus"
                advance = stack.enter_context(console.progress(title, total, "clips"))
                shown.append((advance, [0]))
            advance, before = shown[0]
            advance(done - before[0])
            before[0] = done

        ensure_corpus(entry.generator, data_root / entry.layout.folder, progress)


def _plan_modality(
    request: Request,
    console: Console,
    entry: DatasetEntry,
    everyone: list[Utterance],
    files: MediaFiles,
    settings: Settings,
    modality: str,
    info: EncoderInfo,
    preset: str,
) -> ModalityPlan:
    if modality == "text":
        rows = text_rows(everyone)
    else:
        rows = files.rows(everyone, "audio" if modality == "audio" else "video")
    fingerprint = fingerprint_of(info.ingredients())
    place = (request.cache, entry.name, modality, info.slug, fingerprint)
    folder = find_feature_set_folder(*place)
    if folder != feature_set_folder(*place):
        console.note(f"{entry.name}: {modality}: features of this very encoder are in {folder}")
    wanted = ROWS_PER_SHARD if entry.generator is None else ROWS_PER_SHARD_OF_A_DEMO
    plan = make_plan(
        folder,
        fingerprint,
        rows,
        rows_in_a_shard(wanted, info, settings, rows),
        splits=request.splits,
        limit=request.limit,
        retry_quarantined=request.retry_quarantined,
        fresh=request.fresh,
    )
    return ModalityPlan(
        identity=Identity(entry.name, modality, fingerprint),
        info=info,
        preset=None if modality in request.specs else preset,
        folder=folder,
        rows=rows,
        plan=plan,
    )


def _warn_if_absent(one: ModalityPlan, data_root: Path, console: Console) -> None:
    absent = [row.absent for row in one.rows if row.absent is not None]
    if not absent or len(absent) < len(one.rows):
        return
    if one.identity.modality == "text":
        console.note(f"WARNING: text: none of the {len(absent):,} rows has a transcript")
    elif first := next((each.file for each in absent if each.file), None):
        console.note(
            f"WARNING: {one.identity.modality}: none of the {len(absent):,} rows has a readable "
            f"file under {data_root} (first: {first})"
        )
    else:
        console.note(
            f"WARNING: {one.identity.modality}: none of the {len(absent):,} rows names a file"
        )
