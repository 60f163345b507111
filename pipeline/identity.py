"""What a run's result depends on beside its settings, told by contents: the questions, the model.

A run whose label words, prompts or language model have changed since is another run. Runs of older
versions did not record these; what one of two runs did not record is not compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.items import questions_of
from pipeline.llm import digest_of_llm, place_of
from pipeline.settings import TrainSettings

if TYPE_CHECKING:
    from extract.encoders.weights import Memo
    from pipeline.llm import Llm
    from pipeline.manifest import DatasetEntry
    from pipeline.sources import Corpus

LLM, LLM_SHA256, ENTRY_SHA256 = "llm", "llm_sha256", "entry_sha256"
SETTINGS = "settings"
_NAMED = 3
_DIGESTS = ".digests.json"
RECORDED_LATER = (ENTRY_SHA256, LLM_SHA256)
_HOW = {"max_batch_tokens", "gradient_checkpointing", "eval_batch_size", "log_to"}
"""Settings that say how a run is computed and not what: losses and answers agree to rounding, and
to the draws of dropout. A run that met too little memory goes on with others."""


def identity_of(llm: Llm, corpus: Corpus, runs: Path) -> dict[str, Any]:
    """Return the part of a run's `config.yaml` that says what is asked, and who answers.

    Args:
        llm: the language model.
        corpus: the dataset, with the tasks that are asked.
        runs: where the digests of model files are remembered.

    Raises:
        PipelineError: the manifest has no prompt for a task, or there is no such model.
    """
    from extract.encoders.weights import Memo

    return {
        LLM: place_of(llm.source),
        LLM_SHA256: digest_of_llm(llm.source, Memo(runs / _DIGESTS)),
        ENTRY_SHA256: _digests_of_entry(corpus),
    }


def changed_since(config: Mapping[str, Any], entry: DatasetEntry, memo: Memo) -> list[str]:
    """Return what of a trained run is not there any more as it was, in words.

    Args:
        config: of the run.
        entry: the dataset's, as the manifest has it now, with the tasks that the run learned.
        memo: where the digests of model files are remembered.

    Raises:
        PipelineError: the manifest has no prompt for a task, or there is no such model.
    """
    found = []
    if LLM_SHA256 in config and digest_of_llm(config[LLM], memo) != config[LLM_SHA256]:
        found.append(f"the language model {config[LLM]}")
    recorded = config.get(ENTRY_SHA256, {})
    now: dict[str, Any] = {name: _digest(part) for name, part in _answers_of(entry).items()}
    prompts = recorded.get("prompts")
    if isinstance(prompts, Mapping):  # one digest of all of them in runs of older versions
        languages = sorted({each.partition(" ")[2] for each in prompts})
        now["prompts"] = _digests_of_prompts(entry, languages)
    found += [
        f"the manifest's {part} of {entry.name!r}"
        for part, digest in now.items()
        if part in recorded and recorded[part] != digest
    ]
    return found


def differing(before: Mapping[str, Any], after: Mapping[str, Any], within: str = "") -> list[str]:
    """Return the names of what differs in two runs' configurations, dotted where nested."""
    found = []
    for key in dict.fromkeys((*before, *after)):
        if key in RECORDED_LATER and not (key in before and key in after):
            continue
        one, other = before.get(key), after.get(key)
        if key == LLM and one is not None and other is not None:
            # The same model may lie elsewhere now; told by its path only where nothing else tells.
            if not (LLM_SHA256 in before and LLM_SHA256 in after):
                found += [f"{within}{key}"] if place_of(str(one)) != place_of(str(other)) else []
        elif isinstance(one, Mapping) and isinstance(other, Mapping):
            if key == SETTINGS:
                one, other = _whole(one), _whole(other)
            found += differing(one, other, f"{within}{key}.")
        elif one != other or (key in before) != (key in after):
            found.append(f"{within}{key}")
    return found


def named(keys: Sequence[str]) -> str:
    """Return the first of several names for a message, and how many more there are."""
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{', '.join(keys[:_NAMED])}{more}"


def comparable(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return of configurations what can be compared for equality: no seeds, no model's path."""
    unknown = {key for key in RECORDED_LATER if not all(key in each for each in configs)}
    left_out = {"seed", LLM, *unknown}
    return [
        {
            key: _whole(value) if key == SETTINGS and isinstance(value, Mapping) else value
            for key, value in each.items()
            if key not in left_out
        }
        for each in configs
    ]


def _whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that tell what is computed.

    Those that an older version did not have are added: their defaults do what it did.
    """
    whole = {**TrainSettings().model_dump(mode="json"), **settings}
    return {name: value for name, value in whole.items() if name not in _HOW}


def _digests_of_entry(corpus: Corpus) -> dict[str, Any]:
    """Return a digest of each part of the manifest's entry that training or scoring reads.

    Splits, layout and spellings are in the table already, what was cut off in the features.
    """
    entry = corpus.entry
    languages = sorted({each.language for rows in corpus.utterances.values() for each in rows})
    parts = {"task": entry.task, **_answers_of(entry), "protocol": entry.protocol}
    return {
        **{name: _digest(part) for name, part in parts.items()},
        "prompts": _digests_of_prompts(entry, languages),
    }


def _digests_of_prompts(entry: DatasetEntry, languages: Sequence[str]) -> dict[str, str]:
    """Return a digest of the prompt of each task and language."""
    return {
        f"{task} {language}": _digest(question.lines)
        for (task, language), question in questions_of(entry, languages).items()
    }


def _answers_of(entry: DatasetEntry) -> dict[str, Any]:
    """Return what may be answered, as the manifest says it."""
    return {
        "labels": [each.model_dump(exclude={"aliases"}) for each in entry.labels],
        "scores": entry.scores and entry.scores.model_dump(),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
