"""What a run's `result.json` holds beside the metrics of its splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.demo.hidden import ceiling_for_rows
from pipeline.demo.spec import MODALITIES
from pipeline.evaluation import regression_family
from pipeline.features import Features
from pipeline.items import Utterance
from pipeline.llm import Llm
from pipeline.metrics import majority_baseline, median_baseline
from pipeline.runs import RESULT_FORMAT
from pipeline.sources import Corpus
from pipeline.training import Task


def baselines(
    train_rows: Sequence[Utterance], test: Sequence[Utterance], task: Task
) -> dict[str, Any]:
    """Score what is trivial on the test split: the training split's majority and median."""
    found: dict[str, Any] = {}
    if "classification" in task.names:
        pairs = [[u.label for u in rows if u.label is not None] for rows in (train_rows, test)]
        if all(pairs):
            found["majority"] = majority_baseline(pairs[0], pairs[1], task.labels)
    if "regression" in task.names:
        scores = [
            np.array([u.score for u in rows if u.score is not None]) for rows in (train_rows, test)
        ]
        if all(len(each) for each in scores):
            family = regression_family(task.protocol)
            found["median"] = median_baseline(scores[0], scores[1], family)
    return found


def best_possible(corpus: Corpus, features: Features, reach: int) -> dict[str, Any] | None:
    """Return the best possible score on the test rows as they are.

    Known for the demo alone, and there for single utterances: context tells more.
    """
    if corpus.entry.generator is None or reach:
        return None
    available = [
        tuple(m for m in MODALITIES if m in features.sets and features.has(m, each.id))
        for each in corpus.utterances["test"]
    ]
    return dict(ceiling_for_rows(corpus.entry.generator, available))


def describe(llm: Llm, corpus: Corpus, config: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Say what was run on what: names, settings, fingerprints, what was set aside."""
    entry = corpus.entry
    sets = corpus.sets
    random = llm.random_weights or any(each.random_weights for each in sets.values())
    return {
        "format": RESULT_FORMAT,
        "status": "complete",
        "dataset": entry.name,
        "title": entry.title,
        "experiment": config["experiment"],
        "seed": config["seed"],
        "task": list(entry.task),
        "protocol": entry.protocol,
        "modalities": list(sets),
        "select": config["settings"]["select"],
        "train_languages": config.get("languages", []),
        "train_datasets": config.get("joint", [entry.name]),
        "fusion": config["fusion"],
        "ablate": config["ablate"],
        "context": config["context"],
        "context_after": config["context_after"],
        "random_weights": random,
        "llm": llm.source,
        "labels": list(task.labels),
        "label_words": {
            language: {label.name: label.word(language) for label in entry.labels}
            for language in ("en", "zh")
        },
        "table_sha256": corpus.table_sha256,
        "features": {
            name: {
                "slug": each.slug,
                "fingerprint": each.fingerprint,
                "encoder": each.encoder,
                "dim": each.dim,
                "random_weights": each.random_weights,
            }
            for name, each in sets.items()
        },
        "count_mismatch": _count_mismatch(corpus),
        "quarantined": {
            name: dict(Counter(row.reason for row in each.quarantine()))
            for name, each in sets.items()
        },
    }


def _count_mismatch(corpus: Corpus) -> str | None:
    expected = dict(corpus.entry.splits)
    counts = {k: len(rows) for k, rows in corpus.utterances.items()}
    wrong = [
        f"{k}: {counts.get(k, 0):,} for {n:,}" for k, n in expected.items() if counts.get(k, 0) != n
    ]
    return "; ".join(wrong) or None
