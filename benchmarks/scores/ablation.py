"""What each part of EGMF earns on the demo, and what is left when a modality is missing or wrong.

    python benchmarks/scores/ablation.py [--work DIR] [--seeds N]

Makes and extracts the demo under DIR, trains every row with the demo's own settings, though for 8
epochs (the best of which is chosen on validation), and compares in pairs over dialogues and seeds.
Beside the rows: the utterances whose modalities disagree, every subset of modalities against a
model that was trained on it alone, noise in a modality's place, and two leaks that must not exist
(media of other utterances, labels of other utterances).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from ablation_probes import SUBSETS, absence, conflict, noise, results, spoilt
from harness import Benchmark, Row, command, markdown, publish, score_rows, train, variant

from pipeline.manifest import load_manifest
from pipeline.settings import ABLATIONS

METRICS = {"classification": ("weighted_f1", "accuracy"), "regression": ("mae", "corr")}
FULL, DROPPING = "egmf", "egmf-dropping"
LONGER = (
    *("--epochs", "16", "--set", "modality_dropout=0.3", "--set", "modalities_dropped=2"),
)  # chosen on validation, where the text had too little time to be learned beside the rest
FEW = (1111, 2222)

BENCHMARK = Benchmark(
    name="ablation",
    dataset="demo",
    manifest=None,
    flags=("--epochs", "8"),
    metrics=METRICS,
    rows=(
        Row(FULL, (), against=("concat",)),
        Row("concat", variant("concat"), against=(FULL,)),
        Row(
            "concat-without-noise",
            (*variant("concat"), "--set", "modality_noise=0"),
            against=(FULL, "concat"),
        ),
        *(Row(f"no-{part}", ("--ablate", part), against=(FULL,)) for part in ABLATIONS),
        Row("context", ("--context", "2"), FEW, against=(FULL,)),
        Row(DROPPING, LONGER, FEW, against=(FULL,)),
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
    parser.add_argument("--only", help="train these rows, comma-separated, and no more")
    parser.add_argument("--seeds", type=int, help="the first N seeds of every row")
    options = parser.parse_args()
    where = ("--cache", options.work / "cache", "--data-root", options.work / "data")
    command("egmf-extract", "--dataset", "demo", *where)
    train(BENCHMARK, options)
    if options.only is None:
        write(options, leak_rows(options))


def write(options: Namespace, leaks: Sequence[dict[str, Any]]) -> None:
    """Score what is finished, and write all tables."""
    runs = options.work / "runs" / BENCHMARK.dataset
    full = results(runs, FULL)
    names = [row.name for row in BENCHMARK.rows if row.name != FULL]
    found, text = score_rows(BENCHMARK, [], options)
    parts = {
        "Conflict: rows by how many emotions their modalities show": conflict(
            BENCHMARK, FULL, "concat", options
        ),
        "Absence: modalities kept, against models trained on them alone": absence(full, runs),
        "Absence, trained longer and with two modalities dropped": absence(
            results(runs, DROPPING), runs
        ),
        "Noise in a modality's place": noise(full),
        "Noise in a modality's place: difference to EGMF": spoilt(full, runs, names),
        "Leaks: media, or training labels, of other utterances": list(leaks),
    }
    for title, rows in parts.items():
        if rows:
            text += [f"## {title}", "", markdown(pd.DataFrame(rows).map(_show)), ""]
    publish(BENCHMARK.name, {**found, **parts}, text)


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
        (result,) = results(options.work / "runs" / name, "egmf")
        test, base = result["test"], result["baselines"]
        found.append(
            {
                "dataset": name,
                "weighted_f1": test["weighted_f1"],
                "mae": test["mae"],
                "majority weighted_f1": base["majority"]["weighted_f1"],
                "median mae": base["median"]["mae"],
                "alarms": "; ".join(result["alarms"]),
            }
        )
    return found


if __name__ == "__main__":
    main()
