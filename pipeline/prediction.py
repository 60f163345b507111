"""From raw clips to answers with a trained run, through the same extraction code as training's.

    from pipeline.prediction import Clip, open_run
    run = open_run("runs/meld/egmf/seed-1111")
    run.predict([Clip(id="a", media="clip.mp4", text="What a day!")]).table

The encoders are found by the specs that the run's features were made with, and must give the same
fingerprint: features of another encoder would be read as if they were the run's. Only the tasks
that the run learned are asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
from extract.encoders.weights import Memo, digest_of_files
from extract.errors import ExtractError
from extract.features import fingerprint_of
from extract.jobs import Job
from extract.plan import ShardPlan
from extract.shards import Features as Encoded
from extract.shards import Identity, SetAside
from extract.worker import encode_rows
from generate.errors import GenerateError
from pipeline.clips import Clip, row_of
from pipeline.context import find_context
from pipeline.errors import PipelineError
from pipeline.evaluation import GENERATE, Scored, prediction_table, score
from pipeline.features import Features
from pipeline.identity import changed_since
from pipeline.inputs import Inputs
from pipeline.items import TEXT, Utterance, questions_of
from pipeline.manifest import LANGUAGE_PER_ROW, DatasetEntry, load_manifest
from pipeline.model import Egmf, load_model, open_backbone
from pipeline.prompting import Prompter
from pipeline.runs import RunFolder
from pipeline.scaling import read_scaling
from pipeline.settings import TrainSettings

__all__ = ["Clip", "Predictions", "TrainedRun", "open_run"]

DECODING_THREADS = 1  # a child process decodes
_LEADING = ("id", "task", "language", "text", "answer", "prediction", "valid", "reason")


@dataclass(frozen=True)
class Predictions:
    """Answers, and what they had to do without.

    `table` is as in a run's predictions, without the truth, and with the `text` that was read, the
    probability of every label and the run's name. Where `valid` is false there is no answer, and
    `reason` says why: nothing of the clip could be read, or what the model wrote could not.
    `set_aside` lists, by modality, the streams that could not be read, and why; `shortened`, the
    clips whose transcript or history was cut to fit the prompt.
    """

    table: pd.DataFrame
    set_aside: Mapping[str, Sequence[SetAside]]
    shortened: Collection[str]


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
    """A run that is ready to judge clips.

    `name` says which model it is, for whoever keeps its answers: dataset, experiment and seed, and
    a digest of the weights; `context` counts the turns before and after that it reads.
    """

    name: str
    entry: DatasetEntry
    model: Egmf
    folder: RunFolder
    settings: TrainSettings
    context: tuple[int, int]
    encoders: Mapping[str, EncoderInfo]
    extraction: Mapping[str, Settings]
    temperatures: Mapping[str, float]
    digests: Memo

    @property
    def reads_text(self) -> bool:
        """Whether the run uses the transcript."""
        return TEXT in self.encoders

    @property
    def reads_context(self) -> bool:
        """Whether the run uses neighbouring turns."""
        return any(self.context)

    def check(self, clips: Sequence[Clip]) -> None:
        """Check that all clips can be judged, before time is spent on some of them.

        Raises:
            PipelineError: two share an id, or a language is not known.
        """
        if len({clip.id for clip in clips}) != len(clips):
            raise PipelineError("two clips share an id; give each its own")
        for clip in clips:
            self.language_of(clip)

    def check_context(self, clips: Sequence[Clip]) -> None:
        """Check that where the run reads context, some clip has a place in a dialogue.

        Raises:
            PipelineError: none has.
        """
        placed = any(clip.group is not None and clip.order is not None for clip in clips)
        if self.reads_context and not placed:
            before, after = self.context
            raise PipelineError(
                f"{self.folder.path}: was trained with {before} turns before and {after} after an "
                "utterance; say which those are with the columns group and order in a --table"
            )

    def language_of(self, clip: Clip) -> str:
        """Return a clip's language: its own, or the dataset's.

        Raises:
            PipelineError: neither is known.
        """
        language = clip.language or self.entry.language
        if language == LANGUAGE_PER_ROW:
            raise PipelineError(
                f"{clip.id}: {self.entry.name!r} has no language of its own; "
                "say which one with --language"
            )
        return language

    def predict(self, clips: Sequence[Clip]) -> Predictions:
        """Encode and judge clips; those of one `group` are context of each other.

        Raises:
            PipelineError: two clips share an id, or a clip's language is not known.
        """
        if not clips:
            return Predictions(pd.DataFrame(columns=list(_LEADING)), {}, ())
        self.check(clips)
        utterances = [self._utterance(clip) for clip in clips]
        readers, set_aside = {}, {}
        for modality, info in self.encoders.items():
            encoded, set_aside[modality] = self._encode(modality, info, clips)
            readers[modality] = InMemory(info.dim, encoded)
        features = Features(readers, self.settings.pool, read_scaling(self.folder.scaling))
        context = find_context(utterances, *self.context)
        languages = sorted({each.language for each in utterances})
        prompter = Prompter(
            self.model.language,
            questions_of(self.entry, languages),
            context,
            reads_text=self.reads_text,
            max_tokens=self.settings.max_prompt_tokens,
        )
        scored = score(
            self.model,
            Inputs(features, context),
            prompter,
            utterances,
            self.entry.task,
            self.settings.eval_batch_size,
            write=self.settings.decision == GENERATE,
        )
        empty = {
            clip.id
            for clip in clips
            if not any(len(reader.value(clip.id)) for reader in readers.values())
        }
        return Predictions(self._table(scored, empty, set_aside), set_aside, prompter.shortened)

    def _table(
        self,
        scored: Sequence[Scored],
        empty: Collection[str],
        set_aside: Mapping[str, Sequence[SetAside]],
    ) -> pd.DataFrame:
        """Turn scores into answers, but for clips of which nothing could be read."""
        config = self.model.fusion.config
        table = prediction_table(
            scored,
            config.gated_experts,
            tuple(config.inputs),
            self.settings.decision,
            self.temperatures,
        ).drop(columns="truth")
        chances = pd.DataFrame([self._chances(each) for each in scored])
        table = pd.concat([table, chances], axis=1)
        # What a model says of nothing is its prior, and would look like an answer.
        lost = table["id"].isin(empty)
        table.loc[lost, ["answer", "prediction", "probability", "expectation", *chances]] = None
        table.loc[lost, "valid"] = False
        texts = [each.utterance.text if self.reads_text else None for each in scored]
        columns = list(table)
        table.insert(columns.index("language") + 1, "text", texts)
        reasons: list[str | None] = []
        for name, valid, answer in zip(table["id"], table["valid"], table["answer"], strict=True):
            wrote = f"the model wrote {answer!r}, which is no permitted answer"
            reasons.append(None if valid else _losses(name, set_aside) if name in empty else wrote)
        table.insert(columns.index("valid") + 2, "reason", reasons)
        return table.assign(run=self.name)

    def _chances(self, scored: Scored) -> dict[str, float]:
        """Return the probability of every label, none where the question is about a number."""
        question = scored.question
        if question.task != "classification":
            return {}
        chances = scored.probabilities(self.temperatures.get(question.task, 1.0))
        names = (f"probability_{label}" for label in question.values)
        return dict(zip(names, chances.tolist(), strict=True))

    def _utterance(self, clip: Clip) -> Utterance:
        return Utterance(
            clip.id,
            "unlabelled",
            self.language_of(clip),
            clip.text,
            label=None,
            score=None,
            group=clip.group,
            order=clip.order,
            speaker=clip.speaker,
        )

    def _encode(
        self, modality: str, info: EncoderInfo, clips: Sequence[Clip]
    ) -> tuple[dict[str, Encoded], list[SetAside]]:
        rows = tuple(row_of(clip, modality) for clip in clips)
        identity = Identity(self.entry.name, modality, fingerprint_of(info.ingredients()))
        job = Job(
            identity,
            self.folder.path,
            ShardPlan(0, rows, "new", len(rows)),
            info,
            self.extraction[modality],
            str(self.model.device),
            DECODING_THREADS,
            CLIP_SECONDS,
            isolated=True,  # whoever asks for answers must outlive a clip that kills its decoder
        )
        encoded = encode_rows(job)
        return encoded.features, list(encoded.set_aside)


def open_run(
    path: Path | str,
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
            features, or its encoders or its language model are not what they were.
    """
    path = Path(path)
    folder = RunFolder(path)
    result = folder.read_result()
    config = folder.read_config()
    if parts := _parts_of(path, config):
        raise PipelineError(
            f"{path}: puts together runs that have a model each; name one of them with --run: "
            f"{', '.join(map(str, parts))}"
        )
    entry = load_manifest(manifest).dataset(config["dataset"])
    learned = tuple(task for task in entry.task if task in result["task"])
    entry = entry.model_copy(update={"task": learned})
    digests = Memo(memo or path / ".digests.json")
    found = {
        modality: _find_encoder(path, entry, modality, made_with, digests)
        for modality, made_with in folder.read_features().items()
    }
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = TrainSettings(**config["settings"])
    try:
        backbone = open_backbone(config["llm"], where, settings.dtype, settings.load_in_4bit)
    except (PipelineError, GenerateError) as error:
        raise PipelineError(
            f"{path}: was trained with the language model {config['llm']}, which is not to be had "
            f"here: {error}"
        ) from None
    if changed := changed_since(config, entry, digests):
        raise PipelineError(
            f"{path}: was trained with another version of {', '.join(changed)}; put back what it "
            "was, or train again"
        )
    return TrainedRun(
        name=_name(folder, config, digests),
        entry=entry,
        model=load_model(folder.best, backbone),
        folder=folder,
        settings=settings,
        context=(config["context"], config["context_after"]),
        encoders={modality: info for modality, (info, _) in found.items()},
        extraction={modality: settings for modality, (_, settings) in found.items()},
        temperatures=result["temperatures"],
        digests=digests,
    )


def _name(folder: RunFolder, config: Mapping[str, Any], digests: Memo) -> str:
    """Name a run and what its answers come from: weights, scaling and temperatures."""
    files = [each for each in folder.best.rglob("*") if each.is_file()]
    files += [each for each in (folder.scaling, folder.calibration) if each.is_file()]
    digest = digest_of_files(files, digests)
    return f"{config['dataset']}/{config['experiment']}/seed-{config['seed']}@{digest[:12]}"


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
    try:
        info = resolve_encoder(modality, spec, settings, memo)
    except ExtractError as error:
        raise PipelineError(
            f"{run}: its {modality} features were made with {spec}, which is not to be had here: "
            f"{error}"
        ) from None
    if fingerprint_of(info.ingredients()) != made_with["fingerprint"]:
        raise PipelineError(
            f"{run}: its {modality} features were made with another {spec} or other settings than "
            "are here now; put the encoder back, or train again on features of this one"
        )
    return info, settings


def _losses(clip: str, set_aside: Mapping[str, Sequence[SetAside]]) -> str:
    """Say why nothing of a clip could be read."""
    causes = (
        f"{modality}: {row.reason}"
        for modality, rows in set_aside.items()
        for row in rows
        if row.id == clip
    )
    return f"nothing of the clip could be read ({'; '.join(causes)})"
