"""Judge a trained run: predictions, metrics, and what the model does when a modality is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from extract.files import publish_json, publishing
from pipeline.evaluation import GENERATE, fit_temperatures, metrics_of, prediction_table, score
from pipeline.inputs import Inputs
from pipeline.items import TEXT, Utterance
from pipeline.model import Egmf
from pipeline.probes import collapse_alarms, probe_noise, proper_subsets
from pipeline.prompting import Prompter
from pipeline.results import baselines, best_possible
from pipeline.runs import RunFolder
from pipeline.settings import TrainSettings
from pipeline.sources import Corpus
from pipeline.training import Task


def judge_run(
    model: Egmf,
    inputs: Inputs,
    corpus: Corpus,
    task: Task,
    settings: TrainSettings,
    folder: RunFolder,
) -> dict[str, Any]:
    """Score every split but training, write the predictions, and compare with what is trivial."""
    prompter = prompter_of(model, inputs, task, settings)
    config = model.fusion.config
    write = settings.decision == GENERATE

    def judge(
        rows: Sequence[Utterance], temperatures: Mapping[str, float] | None, **how: Any
    ) -> tuple[pd.DataFrame, Mapping[str, float]]:
        size = settings.eval_batch_size
        scored = score(model, inputs, prompter, rows, task.names, size, write=write, **how)
        if temperatures is None:
            temperatures = fit_temperatures(scored)
        names = tuple(config.inputs)
        table = prediction_table(
            scored, config.gated_experts, names, settings.decision, temperatures
        )
        return table, temperatures

    def metrics(table: pd.DataFrame) -> dict[str, Any]:
        return metrics_of(table, task.labels, task.protocol)

    tables: dict[str, pd.DataFrame] = {}
    temperatures: Mapping[str, float] = {}
    if corpus.utterances["valid"]:
        tables["valid"], temperatures = judge(corpus.utterances["valid"], None)
    publish_json(folder.calibration, temperatures)
    for split in ("test", "unlabelled"):
        if corpus.utterances.get(split):
            tables[split], _ = judge(corpus.utterances[split], temperatures)
    for split, table in tables.items():
        with publishing(folder.predictions(split)) as temporary:
            table.to_csv(temporary, index=False)
    found: dict[str, Any] = {
        "valid": metrics(tables["valid"]) if "valid" in tables else {},
        "temperatures": temperatures,
        "ceiling": best_possible(corpus, inputs.features, inputs.context.reach),
    }
    test = corpus.utterances["test"]
    if test:
        table = tables["test"]
        found["test"] = metrics(table)
        found["by_language"] = {
            str(language): metrics(part) for language, part in table.groupby("language")
        }
        found["baselines"] = baselines(corpus.utterances["train"], test, task)
        found["alarms"] = collapse_alarms(table, found["test"], found["baselines"])
        found["without"] = {
            "+".join(kept): metrics(
                judge(test, temperatures, without=set(config.inputs) - set(kept))[0]
            )
            for kept in proper_subsets(tuple(config.inputs))
        }
        found["noise"] = {
            name: metrics(judge(test, temperatures, noise_in=(name,))[0])
            for name in (config.inputs if len(config.inputs) > 1 else ())
        }
        several = (
            len(config.inputs) > 1
            and bool(config.gated_experts)
            and "modalities" in config.gate_levels
        )
        found["noise_probe"] = (
            probe_noise(model, inputs, test, settings.eval_batch_size) if several else None
        )
    found["shortened_prompts"] = len(prompter.shortened)
    return found


def prompter_of(model: Egmf, inputs: Inputs, task: Task, settings: TrainSettings) -> Prompter:
    """Return the prompter of a run; it reads text only where text is one of its modalities."""
    return Prompter(
        model.language,
        task.questions,
        inputs.context,
        reads_text=TEXT in inputs.features.sets,
        max_tokens=settings.max_prompt_tokens,
    )
