"""Run folders as training writes them: random predictions, scored with the real metrics."""

import csv
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.metrics import (
    classification_metrics,
    majority_baseline,
    median_baseline,
    regression_metrics,
)
from pipeline.report.experiments import group_experiments
from pipeline.report.load import load_runs

EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise")
WORDS = {
    "en": dict(zip(EMOTIONS, EMOTIONS, strict=True)),
    "zh": dict(zip(EMOTIONS, ("平静", "高兴", "悲伤", "愤怒", "惊奇"), strict=True)),
}
MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SPITEFUL = "<script>alert(1)<"
LIMIT = {"mosi": 3.0, "sims": 1.0}
EXPERTS = ("local", "semantic", "global")
TASKS = {
    "demo": ("classification", "regression"),
    "emotion": ("classification",),
    "mosi": ("regression",),
    "sims": ("regression",),
}


def write_run(
    runs: Path,
    dataset: str = "demo",
    experiment: str = "egmf",
    seed: int = 1,
    *,
    protocol: str = "mosi",
    task: tuple[str, ...] = ("classification", "regression"),
    modalities: tuple[str, ...] = ("text", "audio", "visual"),
    skill: float = 0.7,
    rows: int = 300,
    collapsed: bool = False,
    labels: tuple[str, ...] = EMOTIONS,
    predictions: bool = True,
    **changes: Any,
) -> Path:
    """Write one complete run; `changes` replace keys of result.json. Return its folder.

    `skill` is the share of right classes and the correlation of the scores, about. The truth
    depends on the dataset alone, so that experiments share their test split.
    """
    folder = runs / dataset / experiment / f"seed-{seed}"
    folder.mkdir(parents=True)
    draw = np.random.default_rng([seed, len(experiment), len(modalities)])
    splits = {
        split: _predict(dataset, split, rows, labels, LIMIT.get(protocol, 3.0), skill, draw)
        for split in ("valid", "test")
    }
    if collapsed:
        splits["test"]["predicted_label"] = [labels[0]] * rows
        splits["test"]["predicted_score"] = np.zeros(rows)
    test, valid = (_score(splits[split], protocol, task, labels) for split in ("test", "valid"))
    result = {
        "format": 1,
        "status": "complete",
        "dataset": dataset,
        "title": dataset.upper(),
        "experiment": experiment,
        "seed": seed,
        "task": list(task),
        "protocol": protocol,
        "modalities": list(modalities),
        "fusion": "egmf",
        "ablate": [],
        "context": 0,
        "random_weights": dataset == "demo",
        "llm": "tiny",
        "labels": list(labels) if "classification" in task else [],
        "label_words": WORDS if labels is EMOTIONS else {},
        "table_sha256": "ab12cd34" * 8,
        "features": {
            name: {
                "slug": f"tiny-{name}",
                "fingerprint": f"{number}f00d{number}ab" * 9,
                "encoder": f"hf:tiny-{name}",
                "dim": 32,
                "random_weights": dataset == "demo",
            }
            for number, name in enumerate(modalities)
        },
        "count_mismatch": None,
        "quarantined": {name: {"file is missing": 2} for name in modalities},
        "test": test,
        "valid": valid,
        "by_language": {},
        "baselines": _baselines(splits["test"], protocol, task, labels),
        "ceiling": None,
        "noise_probe": None,
        "alarms": [],
        "temperatures": dict.fromkeys(task, 1.25),
        "without": {},
        "context_after": 0,
        "shortened_prompts": 0,
        "parameters": {"trainable": 123_456, "total": 1_234_567},
        "best_epoch": 5,
        "epochs": 8,
        "steps": 160,
        "seconds": {"load": 1.5, "train": 42.0, "evaluate": 6.5},
        "utterances_per_second": 210.0,
        "peak_memory_bytes": 1_500_000_000,
        "environment": {"python": "3.11.9", "torch": "2.10.0"},
    }
    if protocol != "emotion" and len(task) == 2:
        halves = {"en": slice(0, rows // 2), "zh": slice(rows // 2, rows)}
        result["by_language"] = {
            language: _score(_cut(splits["test"], part), protocol, task, labels)
            for language, part in halves.items()
        }
    if dataset == "demo":
        share = min(1.0, 0.3 + 0.22 * len(modalities))
        result["ceiling"] = {
            "accuracy": share,
            "weighted_f1": share,
            "corr": share,
            "mae": 1.2 - share,
        }
        result["without"] = {
            "+".join(kept): test
            for size in range(1, len(modalities))
            for kept in combinations(modalities, size)
        }
        result["noise_probe"] = {
            name: {
                "before": 0.5 - 0.1 * number,
                "after": 0.2 - 0.05 * number,
                "drop": 0.6 - 0.1 * number,
                "p_value": 1e-9,
                "n": rows,
            }
            for number, name in enumerate(modalities)
        }
    result.update(changes)
    (folder / "result.json").write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    _write_log(folder / "log.jsonl", task)
    if predictions:
        for split, rows_of_split in splits.items():
            _write_predictions(
                folder / f"predictions-{split}.csv", rows_of_split, task, modalities, draw
            )
    return folder


def write_demo(runs: Path, *, rows: int = 300, seeds: tuple[int, ...] = (1,)) -> None:
    """Write runs of every modality subset of the demo, better with every modality."""
    subsets = {
        "egmf": ("text", "audio", "visual"),
        "text-audio": ("text", "audio"),
        "text-visual": ("text", "visual"),
        "audio-visual": ("audio", "visual"),
        "text": ("text",),
        "audio": ("audio",),
        "visual": ("visual",),
    }
    for name, modalities in subsets.items():
        for seed in seeds:
            skill = 0.25 + 0.2 * len(modalities) + 0.01 * seed
            write_run(runs, "demo", name, seed, modalities=modalities, skill=skill, rows=rows)


def emotion_run(runs, experiment="egmf", seed=1, **changes):
    settings = {"protocol": "emotion", "task": ("classification",), "labels": MELD, "rows": 60}
    return write_run(runs, "meld", experiment, seed, **(settings | changes))


def sims_run(runs, experiment="egmf", seed=1, **changes):
    settings = {"protocol": "sims", "task": ("regression",), "rows": 60}
    return write_run(runs, "simsv2", experiment, seed, **(settings | changes))


def edit_result(folder, change):
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    change(result)
    path.write_text(json.dumps(result), encoding="utf-8")


def table(out, name):
    with (out / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def experiments_of(runs):
    """Group all runs below a folder."""
    return group_experiments(load_runs(runs).runs)


def _predict(dataset, split, rows, labels, limit, skill, draw):
    truth = np.random.default_rng([sum(dataset.encode()), len(split), rows])
    true_label = truth.choice(labels, rows, p=_frequencies(len(labels)))
    true_score = np.round(truth.uniform(-limit, limit, rows), 1)
    right = draw.random(rows) < skill
    noise = draw.normal(0, limit * 0.6, rows)
    return {
        "id": [f"{dataset}-{split}-{row:05d}" for row in range(rows)],
        "language": ["en" if row < rows // 2 else "zh" for row in range(rows)],
        "true_label": true_label.tolist(),
        "predicted_label": np.where(right, true_label, draw.choice(labels, rows)).tolist(),
        "true_score": true_score,
        "predicted_score": skill * true_score + (1 - skill) * noise,
    }


def _frequencies(count):
    weights = 1.0 / np.arange(1, count + 1)
    return weights / weights.sum()


def _cut(split, part):
    return {key: value[part] for key, value in split.items()}


def _score(split, protocol, task, labels):
    scores = {}
    if "classification" in task:
        scores |= classification_metrics(split["true_label"], split["predicted_label"], labels)
    if "regression" in task:
        scores |= regression_metrics(split["true_score"], split["predicted_score"], protocol)
    return scores


def _baselines(split, protocol, task, labels):
    baselines = {}
    if "classification" in task:
        truth = split["true_label"]
        baselines["majority"] = majority_baseline(truth, truth, labels)
    if "regression" in task:
        truth = split["true_score"]
        baselines["median"] = median_baseline(truth, truth, protocol)
    return baselines


def _write_log(path, task):
    selection = "weighted_f1" if "classification" in task else "mae"
    with path.open("w", encoding="utf-8") as file:
        for epoch in range(1, 9):
            for step in range(20 * epoch - 19, 20 * epoch + 1):
                entry = {
                    "kind": "step",
                    "step": step,
                    "epoch": epoch,
                    "loss": 2.0 / (1 + step / 30) + 0.1 * np.sin(step),
                    "lr": 1e-3 * (1 - step / 160),
                    "seconds": step * 0.25,
                }
                file.write(json.dumps(entry) + "\n")
            value = 0.7 - 0.4 / epoch
            entry = {
                "kind": "epoch",
                "epoch": epoch,
                "step": 20 * epoch,
                "train_loss": 2.0 / (1 + 20 * epoch / 30),
                "valid": {selection: value, "loss": 1.5 / epoch},
                "selection": value,
                "best": epoch <= 5,
                "seconds": 5.0 * epoch,
            }
            file.write(json.dumps(entry) + "\n")


def _write_predictions(path, split, task, modalities, draw):
    gates = [f"gate_expert_{expert}" for expert in EXPERTS]
    gates += [f"gate_modality_{name}" for name in modalities]
    gates += [f"gate_{expert}_{name}" for expert in EXPERTS for name in modalities]
    header = ["id", "task", "language", "truth", "answer", "prediction", "valid", "probability"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "expectation", *gates])
        for kind in task:
            name = "label" if kind == "classification" else "score"
            for row, number in enumerate(split["id"]):
                truth = split[f"true_{name}"][row]
                answer = split[f"predicted_{name}"][row]
                groups = [EXPERTS, *[modalities] * (1 + len(EXPERTS))]
                weights = np.concatenate([draw.dirichlet([4.0] * len(group)) for group in groups])
                shown = answer if kind == "classification" else f"{answer:+.1f}"
                values = [
                    number,
                    kind,
                    split["language"][row],
                    truth,
                    shown,
                    answer,
                    True,
                    round(float(draw.uniform(0.3, 1)), 4),
                    "" if kind == "classification" else answer,
                ]
                writer.writerow([*values, *np.round(weights, 5)])


def write_many(runs):
    """Write a demo with every modality subset, three benchmarks, and a run that stopped."""
    write_demo(runs, rows=100)
    for seed in (1111, 2222, 3333):
        emotion_run(runs, seed=seed, skill=0.6)
    emotion_run(runs, SPITEFUL, 1111, modalities=("text", "audio"), ablate=["gate"])
    sims_run(runs, count_mismatch="2,721 train rows, 2,722 expected")
    write_run(runs, "mosei", "egmf", 1, task=("regression",), rows=60)
    (runs / "meld" / "stopped" / "seed-1").mkdir(parents=True)
    return runs
