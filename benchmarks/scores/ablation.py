"""What each part of EGMF earns on the demo, and what is left when a modality is missing or wrong.

    python benchmarks/scores/ablation.py [--work DIR] [--seeds N]

Makes and extracts the demo under DIR, trains every row with the demo's own settings, though for 8
epochs (the best of which is chosen on validation), and compares in pairs over dialogues and seeds.
Beside the rows: the utterances whose modalities disagree, every subset of modalities against a
model that was trained on it alone, noise in a modality's place, and two leaks that must not exist
(media of other utterances, labels of other utterances).
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from harness import Benchmark, Row, command, compare, run_scores, train, write_results

from pipeline.manifest import load_manifest
from pipeline.settings import ABLATIONS

MODALITIES = ("text", "audio", "visual")
METRICS = {"classification": ("weighted_f1", "accuracy"), "regression": ("mae", "corr")}
FULL = "egmf"
SUBSETS = tuple("+".join(each) for n in (1, 2) for each in combinations(MODALITIES, n))
FEW = (1111, 2222)

BENCHMARK = Benchmark(
    name="ablation",
    dataset="demo",
    manifest=None,
    flags=("--epochs", "8"),
    metrics=METRICS,
    rows=(
        Row(FULL, (), against=("concat",)),
        Row("concat", ("--fusion", "concat", "--set", "match_size=true"), against=(FULL,)),
        *(Row(f"no-{part}", ("--ablate", part), against=(FULL,)) for part in ABLATIONS),
        Row("context", ("--context", "2"), FEW, against=(FULL,)),
        *(
            Row(f"only-{each}", ("--modalities", each.replace("+", ",")), FEW, against=(FULL,))
            for each in SUBSETS
        ),
    ),
)


def main() -> None:
    """Train every row, compare, and look at conflict, absence, noise and leaks."""
    parser = ArgumentParser(description="Ablations on the demo.")
    parser.add_argument("--work", type=Path, default=Path("bench"))
    parser.add_argument("--only", help="comma-separated rows; the others must be finished already")
    parser.add_argument("--seeds", type=int, help="the first N seeds of every row")
    options = parser.parse_args()
    where = ("--cache", options.work / "cache", "--data-root", options.work / "data")
    command("egmf-extract", "--dataset", "demo", *where)
    train(BENCHMARK, options)
    leaks = leak_rows(options) if not options.only else []
    write_results(
        BENCHMARK,
        [],
        options,
        conflict=conflict(options),
        absence=absence(options),
        noise=noise(options),
        leaks=leaks,
    )


def conflict(options: Namespace) -> list[dict[str, Any]]:
    """Compare EGMF with concatenation by how many emotions the modalities of a clip show."""
    truth = pd.read_csv(options.work / "data" / "demo" / "truth.csv").set_index("id")
    shown = truth[[f"{name}_emotion" for name in MODALITIES]]
    kinds = shown.nunique(axis=1)
    table = pd.read_parquet(options.work / "cache" / "demo" / "utterances.parquet").set_index("id")
    found = []
    rows = {row.name: row for row in BENCHMARK.rows}
    for task, metrics in METRICS.items():
        first, second = (run_scores(BENCHMARK, rows[n], task, options) for n in (FULL, "concat"))
        if first is None or second is None:
            continue
        for count in (1, 2, 3):
            kept = np.array([kinds.get(each, 0) == count for each in first.ids])
            parts = [
                replace(
                    each,
                    ids=tuple(np.array(each.ids)[kept]),
                    truth=each.truth[kept],
                    predictions=each.predictions[:, kept],
                )
                for each in (first, second)
            ]
            groups = list(table.loc[list(parts[0].ids), "group"])
            judged = compare(task, metrics, *parts, groups, BENCHMARK.protocol)
            found.append(
                {
                    "task": task,
                    "emotions shown": count,
                    "n": int(kept.sum()),
                    "egmf - concat": judged,
                }
            )
    return found


def absence(options: Namespace) -> list[dict[str, Any]]:
    """Set the model that lost modalities beside models that never had them."""
    full = _results(options, FULL)
    rows = []
    for subset in SUBSETS:
        alone = _results(options, f"only-{subset}")
        if not alone or not full:
            continue
        row: dict[str, Any] = {"kept": subset}
        for key in ("weighted_f1", "mae", "corr"):
            bereft = float(np.mean([each["without"][subset][key] for each in full]))
            trained = float(np.mean([each["test"][key] for each in alone]))
            row[key] = {"left": bereft, "trained on it": trained, "difference": bereft - trained}
        rows.append(row)
    return rows


def noise(options: Namespace) -> list[dict[str, Any]]:
    """Give each modality's gate weight and the scores before and after noise takes its place."""
    rows = []
    for modality in MODALITIES:
        full = _results(options, FULL)
        if not full:
            break
        row: dict[str, Any] = {"modality": modality}
        for key in ("before", "after"):
            row[f"weight {key}"] = float(
                np.mean([each["noise_probe"][modality][key] for each in full])
            )
        for key in ("weighted_f1", "mae"):
            row[f"{key} before"] = float(np.mean([each["test"][key] for each in full]))
            row[f"{key} after"] = float(np.mean([each["noise"][modality][key] for each in full]))
            gone = "+".join(each for each in MODALITIES if each != modality)
            row[f"{key} without it"] = float(np.mean([each["without"][gone][key] for each in full]))
        rows.append(row)
    return rows


def leak_rows(options: Namespace) -> list[dict[str, Any]]:
    """Train on the clips, and on the labels, of other utterances of the same split."""
    folder = options.work / "data" / "demo"
    table = pd.read_csv(folder / "utterances.csv")
    draw = np.random.default_rng(7)
    demo = load_manifest().dataset("demo").model_dump(mode="json", exclude={"name", "generator"})
    entries = {}
    for name, columns, splits in (
        ("other_media", ["media"], ("train", "valid", "test")),
        ("other_labels", ["label", "score"], ("train",)),
    ):
        mixed = table.copy()
        for split in splits:
            rows = mixed.index[mixed["split"] == split]
            mixed.loc[rows, columns] = mixed.loc[draw.permutation(rows), columns].to_numpy()
        mixed.to_csv(folder / f"{name}.csv", index=False)
        layout = {"reader": "table", "folder": "demo", "table": f"{name}.csv"}
        entries[name] = {**demo, "layout": layout, "title": name.replace("_", " ")}
    manifest = options.work / "leaks.yaml"
    manifest.write_text(yaml.safe_dump({"datasets": entries}, allow_unicode=True))
    found = []
    for name in entries:
        where = ("--cache", options.work / "cache", "--data-root", options.work / "data")
        command(
            *("egmf-extract", "--dataset", name, "--manifest", manifest, "--preset", "tiny"), *where
        )
        row = Row("egmf", (), (1111,))
        train(replace(BENCHMARK, dataset=name, manifest=manifest, rows=(row,)), options)
        (result,) = _results(options, "egmf", name)
        test, base = result["test"], result["baselines"]
        found.append(
            {
                "dataset": name,
                "weighted_f1": test["weighted_f1"],
                "mae": test["mae"],
                "majority weighted_f1": base["majority"]["weighted_f1"],
                "median mae": base["median"]["mae"],
                "alarms": result["alarms"],
            }
        )
    return found


def _results(options: Namespace, row: str, dataset: str = "demo") -> list[dict[str, Any]]:
    folder = options.work / "runs" / dataset / row
    return [json.loads(each.read_text()) for each in sorted(folder.glob("seed-*/result.json"))]


if __name__ == "__main__":
    main()
