"""From raw clips to answers with a trained run, through the same extraction code as training's.

    from pipeline.prediction import Clip, open_run
    run = open_run(Path("runs/meld/egmf/seed-1111"))
    answers = run.predict([Clip(id="a", media=Path("a.mp4"), text="What a day!")])

The encoders are found by the specs that the run's features were made with, and must give the same
fingerprint: features of another encoder would be read as if they were the run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from extract.decoding import CLIP_SECONDS
from extract.encoders.base import EncoderInfo, Settings
from extract.encoders.registry import resolve_encoder
from extract.encoders.weights import Memo
from extract.features import fingerprint_of
from extract.jobs import Job
from extract.plan import ABSENT, Row, ShardPlan
from extract.shards import Features as Encoded
from extract.shards import Identity, SetAside
from extract.worker import encode_rows
from pipeline.context import Context
from pipeline.errors import PipelineError
from pipeline.evaluation import GENERATE, prediction_table, score
from pipeline.features import Features
from pipeline.inputs import Inputs
from pipeline.items import TEXT, Utterance, questions_of
from pipeline.manifest import LANGUAGE_PER_ROW, DatasetEntry, load_manifest
from pipeline.model import Egmf, load_model, open_backbone
from pipeline.prompting import Prompter
from pipeline.runs import RunFolder
from pipeline.scaling import read_scaling
from pipeline.settings import TrainSettings

DECODING_THREADS = 1  # a child process decodes


@dataclass(frozen=True)
class Clip:
    """A clip to be judged; any of its parts may be missing, but not all.

    `start` and `end` are seconds in the file; `language` None is the dataset's own.
    """

    id: str
    media: Path | None = None
    text: str | None = None
    language: str | None = None
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Predictions:
    """Answers, and what they had to do without.

    `table` as in a run's predictions, with `valid` false and no answer for a clip of which nothing
    could be read; `set_aside`, by modality, the streams that could not be read, and why.
    """

    table: pd.DataFrame
    set_aside: Mapping[str, Sequence[SetAside]]


class InMemory:
    """The features of a few clips, in the form in which a feature set is read."""

    def __init__(self, dim: int, features: Mapping[str, Encoded]) -> None:
        self.dim = dim
        self._features = features

    def reader(self) -> InMemory:
        """Return itself: there is nothing to open."""
        return self

    def lengths(self) -> dict[str, int]:
        """Return how many rows each clip has."""
        return {name: len(each.value) for name, each in self._features.items()}

    def value(self, name: str) -> NDArray[Any]:
        """Return a clip's rows, [rows, dim]; none when absent."""
        found = self._features.get(name)
        return np.zeros((0, self.dim), np.float32) if found is None else found.value


@dataclass(frozen=True)
class TrainedRun:
    """A run that is ready to judge clips."""

    entry: DatasetEntry
    model: Egmf
    folder: RunFolder
    settings: TrainSettings
    encoders: Mapping[str, EncoderInfo]
    extraction: Mapping[str, Settings]
    temperatures: Mapping[str, float]

    @property
    def reads_text(self) -> bool:
        """Whether the run uses the transcript."""
        return TEXT in self.encoders

    def predict(self, clips: Sequence[Clip]) -> Predictions:
        """Encode and judge clips.

        Raises:
            PipelineError: two clips share an id, or a clip's language is not known.
        """
        if len({clip.id for clip in clips}) != len(clips):
            raise PipelineError("two clips share an id; give each its own")
        readers, set_aside = {}, {}
        for modality, info in self.encoders.items():
            encoded, set_aside[modality] = self._encode(modality, info, clips)
            readers[modality] = InMemory(info.dim, encoded)
        features = Features(readers, self.settings.pool, read_scaling(self.folder.scaling))
        utterances = [self._utterance(clip) for clip in clips]
        languages = sorted({each.language for each in utterances})
        prompter = Prompter(
            self.model.language,
            questions_of(self.entry, languages),
            Context(),
            reads_text=self.reads_text,
            max_tokens=self.settings.max_prompt_tokens,
        )
        scored = score(
            self.model,
            Inputs(features, Context()),
            prompter,
            utterances,
            self.entry.task,
            self.settings.eval_batch_size,
            write=self.settings.decision == GENERATE,
        )
        config = self.model.fusion.config
        table = prediction_table(
            scored,
            config.gated_experts,
            tuple(config.inputs),
            self.settings.decision,
            self.temperatures,
        )
        empty = [
            clip.id
            for clip in clips
            if not any(len(reader.value(clip.id)) for reader in readers.values())
        ]
        # What a model says of nothing is its prior, and would look like an answer.
        lost = table["id"].isin(empty)
        table.loc[lost, ["answer", "prediction", "probability", "expectation"]] = None
        table.loc[lost, "valid"] = False
        return Predictions(table.drop(columns="truth"), set_aside)

    def _utterance(self, clip: Clip) -> Utterance:
        language = clip.language or self.entry.language
        if language == LANGUAGE_PER_ROW:
            raise PipelineError(
                f"{clip.id}: {self.entry.name!r} has no language of its own; "
                "say which one with --language"
            )
        return Utterance(clip.id, "unlabelled", language, clip.text, None, None)

    def _encode(
        self, modality: str, info: EncoderInfo, clips: Sequence[Clip]
    ) -> tuple[dict[str, Encoded], list[SetAside]]:
        rows = tuple(_row(clip, modality) for clip in clips)
        identity = Identity(self.entry.name, modality, fingerprint_of(info.ingredients()))
        job = Job(
            identity,
            self.folder.path,
            ShardPlan(0, rows, "new", len(rows)),
            info,
            self.extraction[modality],
            self.model.device.type,
            DECODING_THREADS,
            CLIP_SECONDS,
            isolated=True,  # whoever asks for answers must outlive a clip that kills its decoder
        )
        encoded = encode_rows(job)
        return encoded.features, list(encoded.set_aside)


def open_run(
    path: Path,
    *,
    manifest: Path | None = None,
    memo: Path | None = None,
    device: torch.device | None = None,
) -> TrainedRun:
    """Open a finished run for prediction.

    Args:
        path: the run's folder, `runs/{dataset}/{experiment}/seed-{n}`.
        manifest: the user's own, if the dataset is in one.
        memo: where digests of model files are remembered between calls.
        device: where the model runs; the best there is by default.

    Raises:
        PipelineError: the run is not finished, has no model of its own, was trained on imported
            features or with context, or its encoders are no longer what they were.
    """
    folder = RunFolder(path)
    result = folder.read_result()
    config = folder.read_config()
    if parts := _parts_of(path, config):
        raise PipelineError(
            f"{path}: puts together runs that have a model each; name one of them with --run: "
            f"{', '.join(map(str, parts))}"
        )
    if config["context"] or config["context_after"]:
        raise PipelineError(f"{path}: was trained with context, which single clips do not have")
    entry = load_manifest(manifest).dataset(config["dataset"])
    digests = Memo(memo or path / ".digests.json")
    found = {
        modality: _find_encoder(path, entry, modality, made_with, digests)
        for modality, made_with in folder.read_features().items()
    }
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained_with = TrainSettings(**config["settings"])
    precision = trained_with.dtype, trained_with.load_in_4bit
    return TrainedRun(
        entry=entry,
        model=load_model(folder.best, open_backbone(config["llm"], where, *precision)),
        folder=folder,
        settings=trained_with,
        encoders={modality: info for modality, (info, _) in found.items()},
        extraction={modality: settings for modality, (_, settings) in found.items()},
        temperatures=result["temperatures"],
    )


def _parts_of(path: Path, config: Mapping[str, Any]) -> list[Path]:
    """Return the runs to name instead of one that has none of its own: folds, or joint datasets."""
    if "folds" in config and "fold" not in config:
        folds = (each for each in path.glob("fold-*") if each.is_dir())
        return sorted(folds, key=lambda each: int(each.name.removeprefix("fold-")))
    if "dataset" not in config:  # runs/joint/{A+B}/{experiment}/seed-{n}
        return [
            path.absolute().parents[3] / name / own["experiment"] / path.name
            for name, own in config["joint"].items()
        ]
    return []


def _find_encoder(
    run: Path, entry: DatasetEntry, modality: str, made_with: Mapping[str, Any], memo: Memo
) -> tuple[EncoderInfo, Settings]:
    """Find the encoder of a run's features and check that it still is the same."""
    spec = str(made_with["encoder"])
    ingredients = made_with["fingerprinted"]
    if "dtype" not in ingredients:
        raise PipelineError(
            f"{run}: was trained on imported {modality} features ({spec}), which egmf cannot make "
            "from a clip; train on features that egmf-extract encoded"
        )
    settings = Settings(max_seconds=entry.max_seconds, dtype=ingredients["dtype"])
    info = resolve_encoder(modality, spec, settings, memo)
    if fingerprint_of(info.ingredients()) != made_with["fingerprint"]:
        raise PipelineError(
            f"{run}: its {modality} features were made with another {spec} or other settings than "
            "are here now; put the encoder back, or train again on features of this one"
        )
    return info, settings


def _row(clip: Clip, modality: str) -> Row:
    """Return a clip's input for one modality, or why there is none."""
    file = "" if clip.media is None else str(clip.media)
    if modality == TEXT:
        if clip.text and clip.text.strip():
            return Row(clip.id, "unlabelled", "", text=clip.text)
        absent = SetAside(clip.id, "", "table", "no transcript")
        return Row(clip.id, "unlabelled", ABSENT, absent=absent)
    if clip.media is None or not clip.media.is_file():
        reason = "no file given" if clip.media is None else "no such file"
        absent = SetAside(clip.id, file, "open", reason)
        return Row(clip.id, "unlabelled", ABSENT, file=file, absent=absent)
    return Row(clip.id, "unlabelled", "", root=Path(), file=file, start=clip.start, end=clip.end)
