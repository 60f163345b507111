"""The ablation's models when a modality is missing, is wrong, or contradicts the others."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import Benchmark, compare, run_scores, show_difference
from scipy import stats

MODALITIES = ("text", "audio", "visual")
SUBSETS = tuple("+".join(each) for n in (1, 2) for each in combinations(MODALITIES, n))
SHOWN = {"weighted_f1": 100.0, "mae": 1.0}


def conflict(
    benchmark: Benchmark, first: str, second: str, options: Namespace
) -> list[dict[str, Any]]:
    """Compare two rows by how many emotions the modalities of a clip show."""
    truth = pd.read_csv(options.work / "data" / "demo" / "truth.csv").set_index("id")
    kinds = truth[[f"{name}_emotion" for name in MODALITIES]].nunique(axis=1)
    table = pd.read_parquet(options.work / "cache" / "demo" / "utterances.parquet").set_index("id")
    rows = {row.name: row for row in benchmark.rows}
    found = []
    for task, metrics in benchmark.metrics.items():
        one, other = (run_scores(benchmark, rows[n], task, options) for n in (first, second))
        if one is None or other is None:
            continue
        for count in (1, 2, 3):
            kept = np.array([kinds.get(each, 0) == count for each in one.ids])
            parts = [
                replace(
                    each,
                    ids=tuple(np.array(each.ids)[kept]),
                    truth=each.truth[kept],
                    predictions=each.predictions[:, kept],
                )
                for each in (one, other)
            ]
            groups = list(table.loc[list(parts[0].ids), "group"])
            judged = compare(task, metrics, parts[0], parts[1], groups, benchmark.protocol)
            row: dict[str, Any] = {"emotions shown": count, "n": int(kept.sum()), "task": task}
            key = metrics[0]
            shown = show_difference(judged[key], SHOWN[key])
            found.append({**row, f"{first} - {second}": f"{key} {shown}"})
    return found


def absence(full: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Set a model that lost modalities beside models that never had them.

    Args:
        full: results of the model with all modalities, one a seed.
        folder: where the runs `only-{subset}` lie.
    """
    rows = []
    for subset in SUBSETS:
        alone = results(folder, f"only-{subset}")
        if not alone or not full:
            continue
        row: dict[str, Any] = {"kept": subset}
        for key, scale in SHOWN.items():
            left = scale * _mean([each["without"][subset][key] for each in full])
            trained = scale * _mean([each["test"][key] for each in alone])
            row |= {f"{key} left": left, "trained on it": trained, f"{key} lost": left - trained}
            row[f"{key} trained on it"] = row.pop("trained on it")
        rows.append(row)
    return rows


def noise(full: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each modality's gate weight and the scores before and after noise takes its place."""
    rows = []
    for modality in MODALITIES if full else ():
        gone = "+".join(each for each in MODALITIES if each != modality)
        row: dict[str, Any] = {"modality": modality}
        for key in ("before", "after"):
            row[f"weight {key}"] = _mean([each["noise_probe"][modality][key] for each in full])
        for key, scale in SHOWN.items():
            row[f"{key} before"] = scale * _mean([each["test"][key] for each in full])
            row[f"{key} after"] = scale * _mean([each["noise"][modality][key] for each in full])
            row[f"{key} without it"] = scale * _mean([e["without"][gone][key] for e in full])
        rows.append(row)
    return rows


def spoilt(
    full: Sequence[dict[str, Any]], folder: Path, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Compare rows with the full model where one modality is noise, in pairs over seeds.

    Each cell is the difference to the full model, the mean over the three modalities in the last.
    """
    rows = []
    for name in names:
        other = {each["seed"]: each for each in results(folder, name)}
        pairs = [(each, other[each["seed"]]) for each in full if each["seed"] in other]
        if len(pairs) < 3 or not all(set(MODALITIES) <= set(b["noise"]) for _, b in pairs):
            continue
        row: dict[str, Any] = {"row": name, "seeds": len(pairs)}
        for key, scale in SHOWN.items():
            apart = scale * np.array(
                [[b["noise"][m][key] - a["noise"][m][key] for m in MODALITIES] for a, b in pairs]
            )
            row |= {f"{key}, {m}": apart[:, at].mean() for at, m in enumerate(MODALITIES)}
            whole = apart.mean(axis=1)
            row[f"{key}, mean"] = whole.mean()
            row[f"{key}, p"] = float(stats.ttest_1samp(whole, 0.0).pvalue)
        rows.append(row)
    return rows


def results(folder: Path, row: str) -> list[dict[str, Any]]:
    """Read the results of a row's finished seeds."""
    return [
        json.loads(each.read_text()) for each in sorted(folder.glob(f"{row}/seed-*/result.json"))
    ]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
