"""What stage two reads: a dataset's table and one feature set for each modality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from extract.features import FeatureSet, list_feature_sets
from extract.files import sha256_of
from extract.table import read_table
from pipeline.errors import PipelineError
from pipeline.items import COLUMNS, Utterance, utterances_of
from pipeline.manifest import DatasetEntry, load_manifest, nearest
from pipeline.presets import absolute_spec
from pipeline.settings import TrainSettings

MODALITY_ORDER = ("text", "audio", "visual")


@dataclass(frozen=True)
class Source:
    """Where stage two's input lies.

    `features` names a feature set (spec, slug or the first letters of a fingerprint) by modality;
    `modalities` is empty for all that the cache has.
    """

    dataset: str
    cache: Path
    modalities: tuple[str, ...]
    features: Mapping[str, str]
    manifest: Path | None


@dataclass(frozen=True)
class Corpus:
    """What stage two reads of a dataset."""

    entry: DatasetEntry
    utterances: Mapping[str, Sequence[Utterance]]
    table_sha256: str
    sets: Mapping[str, FeatureSet]


def open_corpus(source: Source, needed: Iterable[str], say: Callable[[str], None]) -> Corpus:
    """Read a dataset's table and choose its feature sets.

    Raises:
        PipelineError: there is no cache, a needed split is empty, or no or several feature sets
            fit.
    """
    entry = load_manifest(source.manifest).dataset(source.dataset)
    path = cached_table(source.cache, source.dataset)
    utterances: dict[str, list[Utterance]] = {name: [] for name in ("train", "valid", "test")}
    for each in utterances_of(read_table(path, COLUMNS)):
        utterances.setdefault(each.split, []).append(each)
    for split in needed:
        if not utterances[split]:
            instead = ", or train with --select last" if split == "valid" else ""
            raise PipelineError(
                f"{path}: no utterance in the split {split!r}, which training needs; give some "
                f"rows of the dataset's table that split and run egmf-extract again{instead}"
            )
    sets = choose_feature_sets(source, say)
    return Corpus(entry, utterances, sha256_of(path), sets)


def train_on(corpus: Corpus, languages: Sequence[str]) -> Corpus:
    """Leave only utterances of these languages in the training and validation splits.

    The test split keeps all of its languages, so that what carries over to the others is seen.

    Raises:
        PipelineError: a split has none of a language.
    """
    kept = dict(corpus.utterances)
    for split in ("train", "valid"):
        known = sorted({each.language for each in corpus.utterances[split]})
        missing = [each for each in languages if known and each not in known]
        if missing:
            raise PipelineError(
                f"--languages {missing[0]}: the split {split!r} of {corpus.entry.name!r} has no "
                f"such utterance; there are: {', '.join(known)}"
            )
        kept[split] = [each for each in corpus.utterances[split] if each.language in languages]
    return replace(corpus, utterances=kept)


def ask_only(corpus: Corpus, tasks: Sequence[str]) -> Corpus:
    """Leave only these tasks, so that neither training nor scoring knows of the others.

    Raises:
        PipelineError: the dataset has no such task.
    """
    known = corpus.entry.task
    for each in tasks:
        if each not in known:
            raise PipelineError(
                f"--tasks {each}: {corpus.entry.name!r} has no such task{nearest(each, known)}; "
                f"there are: {', '.join(known)}"
            )
    kept = tuple(each for each in known if each in tasks)
    labels, scores = "classification" in kept, "regression" in kept
    return replace(
        corpus,
        entry=corpus.entry.model_copy(update={"task": kept}),
        utterances={
            split: [
                replace(
                    each,
                    label=each.label if labels else None,
                    score=each.score if scores else None,
                )
                for each in rows
            ]
            for split, rows in corpus.utterances.items()
        },
    )


def check_modality_settings(settings: TrainSettings, known: Iterable[str]) -> None:
    """Check that what is set by modality names modalities: `known` ones, or the usual ones.

    Raises:
        PipelineError: one is not known.
    """
    names = sorted({*MODALITY_ORDER, *known})
    for key in ("pool", "feature_noise"):
        for name in getattr(settings, key):
            if name not in names:
                raise PipelineError(
                    f"--set {key}: no modality {name!r}{nearest(name, names)}; there are: "
                    f"{', '.join(names)}"
                )


def cached_table(cache: Path, dataset: str) -> Path:
    """Return the path of a dataset's utterance table.

    Raises:
        PipelineError: the cache does not hold the dataset.
    """
    path = cache / dataset / "utterances.parquet"
    if not path.is_file():
        raise PipelineError(
            f"{cache}: no cache of {dataset!r}; run egmf-extract --dataset {dataset} first"
        )
    return path


def require_extracted(corpus: Corpus) -> None:
    """Check that every utterance has been extracted.

    Raises:
        PipelineError: some have not; names the feature set and the command that mends it.
    """
    ids = [each.id for rows in corpus.utterances.values() for each in rows]
    for each in corpus.sets.values():
        done = each.index()
        missing = [name for name in ids if name not in done]
        if missing:
            raise PipelineError(
                f"{each.folder}: {len(missing):,} of {len(ids):,} utterances are not extracted "
                f"(first: {missing[0]}); run egmf-extract again to finish it"
            )


def choose_feature_sets(source: Source, say: Callable[[str], None]) -> dict[str, FeatureSet]:
    """Choose one feature set for each modality.

    A modality that no utterance has is left out, with a word, unless it was asked for by name.

    Raises:
        PipelineError: none fits, or several do and none was named.
    """
    by_modality: dict[str, list[FeatureSet]] = {}
    for each in list_feature_sets(source.cache, source.dataset):
        by_modality.setdefault(each.modality, []).append(each)
    known = sorted(by_modality, key=lambda m: (m not in MODALITY_ORDER, _place(m), m))
    if not known:
        raise PipelineError(
            f"{source.cache / source.dataset}: holds no features; "
            f"run egmf-extract --dataset {source.dataset} first"
        )
    for name in (*source.modalities, *source.features):
        if name not in by_modality:
            raise PipelineError(
                f"no {name!r} features of {source.dataset!r} in {source.cache}"
                f"{nearest(name, known)}; there are: {', '.join(known)}"
            )
    chosen = {}
    for name in known:
        if source.modalities and name not in source.modalities:
            continue
        one = _one_of(name, by_modality[name], source.features.get(name))
        lengths = one.lengths()  # none at all: not extracted yet, which is another matter
        if not source.modalities and lengths and not any(lengths.values()):
            say(f"{name}: no utterance of {source.dataset} has it; left out")
            continue
        chosen[name] = one
    if not chosen:
        raise PipelineError(f"{source.dataset!r}: every feature set is empty; nothing to train on")
    return chosen


def default_experiment(
    fusion: str,
    sets: Mapping[str, FeatureSet],
    ablate: Sequence[str],
    context: tuple[int, int],
    folds: str | None = None,
    languages: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> str:
    """Name an experiment after its fusion, what it reads, leaves out and is restricted to."""
    full = set(sets) >= set(MODALITY_ORDER)
    name = fusion if full else f"{fusion}-{'+'.join(sets)}"
    if any(context):
        name += f"-context-{context[0]}-{context[1]}"
    name += "".join(f"-no-{part}" for part in ablate)
    if tasks:
        name += f"-only-{'+'.join(tasks)}"
    if languages:
        name += f"-trained-on-{'+'.join(languages)}"
    return name if folds is None else f"{name}-folds-{folds}"


def _place(modality: str) -> int:
    return MODALITY_ORDER.index(modality) if modality in MODALITY_ORDER else len(MODALITY_ORDER)


def _one_of(modality: str, sets: Sequence[FeatureSet], wanted: str | None) -> FeatureSet:
    fitting = [
        each
        for each in sets
        if wanted is None
        or wanted in (each.encoder, each.slug)
        or absolute_spec(wanted) == each.encoder
        or (len(wanted) >= 4 and each.fingerprint.startswith(wanted))
    ]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(f"{each.fingerprint[:8]} ({each.encoder})" for each in sets)
    if not fitting:
        raise PipelineError(f"no {modality} features fit {wanted!r}; there are: {listed}")
    raise PipelineError(
        f"several {modality} feature sets: {listed}; name one with --{modality} FINGERPRINT"
    )
