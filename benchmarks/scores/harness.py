"""What the benchmarks on real data share: train through the commands, compare in pairs, write down.

Every row of a benchmark is an experiment that `egmf-train` runs as a user would, one run a seed;
what is finished is not run again. Baselines are scored on the same rows by the same metrics, and
every comparison is a paired bootstrap over groups (dialogues, videos, speakers) and over seeds.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from extract.features import list_feature_sets
from fuse.config import VARIANTS
from pipeline.metrics import (
    classification_metrics,
    classification_statistics,
    draw_counts,
    paired_difference,
    regression_metrics,
    regression_statistics,
    score_resamples,
)
from pipeline.runs import environment

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
SEEDS = (1111, 2222, 3333, 4444, 5555)
RESAMPLES = 10_000  # with fewer, a p-value near .05 depends on the draw
OTHER_FUSIONS = tuple(each for each in VARIANTS if each != "egmf")


@dataclass(frozen=True)
class Row:
    """An experiment of a benchmark: its name, what it adds to the common flags, its seeds.

    `against` names the rows that it is compared with. What other training left behind, such as a
    model of another dataset judged on this one, is read and not trained: `folder` says where below
    `runs/` its seeds lie, `file` which predictions are meant.
    """

    name: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...] = SEEDS
    against: tuple[str, ...] = ()
    folder: str = ""
    file: str = ""


@dataclass(frozen=True)
class Baseline:
    """What egmf did not predict: for each task and seed, a label or number for each test id."""

    name: str
    predictions: Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Benchmark:
    """A data set, how it is trained on, and its rows.

    `metrics` maps each task to the metrics that are printed; comparisons of the first `compared`
    are printed too, those of the others are in the JSON file.
    """

    name: str
    dataset: str
    manifest: Path | None
    flags: tuple[str, ...]
    rows: tuple[Row, ...]
    metrics: Mapping[str, tuple[str, ...]]
    protocol: str = "mosi"
    split: str = "test"
    folder: str = ""
    compared: int = 1


@dataclass
class Scores:
    """Predictions of one system for one task: `[seeds, rows]` beside the truth."""

    ids: tuple[str, ...]
    truth: NDArray[Any]
    predictions: NDArray[Any]
    extra: dict[str, Any] = field(default_factory=dict)


def arguments(description: str) -> ArgumentParser:
    """Return a parser with what every benchmark takes."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="cache and runs go here")
    parser.add_argument("--only", help="train these rows, comma-separated, and no more")
    parser.add_argument("--seeds", type=int, help="the first N seeds of every row")
    return parser


def variant(name: str, chosen: Mapping[str, tuple[str, ...]] | None = None) -> tuple[str, ...]:
    """Return the flags of a fusion variant with as many parameters as EGMF's fusion has.

    `chosen` are flags by variant, where a search chose other settings than EGMF's.
    """
    return "--fusion", name, "--set", "match_size=true", *(chosen or {}).get(name, ())


def command(name: str, *args: str | Path) -> None:
    """Run a command of egmf; its output goes to the terminal.

    Raises:
        SystemExit: the command failed; it has said why.
    """
    script = Path(sys.executable).with_name(name)
    print(f"$ {name} {' '.join(str(each) for each in args)}", flush=True)
    done = subprocess.run([script, *map(str, args)], env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def train(benchmark: Benchmark, options: Namespace) -> None:
    """Train every row and seed that is not finished."""
    wanted = set(options.only.split(",")) if options.only else None
    if wanted is not None and (unknown := wanted - {row.name for row in benchmark.rows}):
        raise SystemExit(f"error: --only {', '.join(unknown)}: no such row")
    for row in benchmark.rows:
        if row.folder or (wanted is not None and row.name not in wanted):
            continue
        seeds = [flag for seed in row.seeds[: options.seeds] for flag in ("--seed", str(seed))]
        command(
            "egmf-train",
            "--from-cache",
            "--resume",
            *("--dataset", benchmark.dataset),
            *(("--manifest", benchmark.manifest) if benchmark.manifest else ()),
            *("--cache", options.work / "cache", "--runs", options.work / "runs"),
            *("--preset", "tiny", "--experiment", row.name),
            *seeds,
            *benchmark.flags,
            *row.flags,
        )


def mean_features(cache: Path, dataset: str, modality: str, ids: Sequence[str]) -> NDArray[Any]:
    """Return the mean row of each id in a dataset's only feature set of a modality, [ids, dim]."""
    (found,) = [each for each in list_feature_sets(cache, dataset) if each.modality == modality]
    reader = found.reader()
    rows = (reader.value(each).astype(np.float64) for each in ids)
    return np.stack([each.mean(axis=0) if len(each) else np.zeros(found.dim) for each in rows])


def write_results(
    benchmark: Benchmark, baselines: Sequence[Baseline], options: Namespace, **notes: Any
) -> None:
    """Score what is finished, compare it, print a table and write both forms to `results/`."""
    found, text = score_rows(benchmark, baselines, options)
    publish(benchmark.name, {**notes, **found}, text)


def score_rows(
    benchmark: Benchmark, baselines: Sequence[Baseline], options: Namespace
) -> tuple[dict[str, Any], list[str]]:
    """Return what came of every finished row by task, and the same as lines of Markdown."""
    table = pd.read_parquet(options.work / "cache" / benchmark.dataset / "utterances.parquet")
    table = table.set_index("id")
    found: dict[str, Any] = {}
    text = []
    for task, metrics in benchmark.metrics.items():
        systems = {
            each.name: _baseline_scores(each, task, table)
            for each in baselines
            if task in each.predictions
        }
        for row in benchmark.rows:
            scores = run_scores(benchmark, row, task, options)
            if scores is not None:
                systems[row.name] = scores
        rows = [_judge(benchmark, name, task, metrics, systems, table) for name in systems]
        found[task] = rows
        text += [
            f"## {task}",
            "",
            markdown(pd.DataFrame([_shown(each, benchmark.compared) for each in rows]).fillna("")),
            "",
        ]
    return found, text


def publish(name: str, found: Mapping[str, Any], text: Sequence[str]) -> None:
    """Print a benchmark's results and write them to `results/`, as JSON and as Markdown."""
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": name, **found, "environment": _environment()}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    page = "\n".join([f"# {name}", "", *text])
    (RESULTS / f"{name}.md").write_text(page)
    print(page)


def run_scores(benchmark: Benchmark, row: Row, task: str, options: Namespace) -> Scores | None:
    """Read the finished seeds of a row; None where none is finished or the task was not asked."""
    predictions, costs = [], []
    for seed in row.seeds[: options.seeds]:
        own = f"{benchmark.folder or benchmark.dataset}/{row.name}"
        folder = options.work / "runs" / (row.folder or own) / f"seed-{seed}"
        if not (folder / "result.json").is_file():
            continue
        file = row.file or f"predictions-{benchmark.split}.csv"
        frame = pd.read_csv(folder / file, dtype={"id": str})
        frame = frame[(frame["task"] == task) & frame["truth"].notna()].sort_values("id")
        if frame.empty:
            return None
        predictions.append(frame)
        costs.append(json.loads((folder / "result.json").read_text()))
    if not predictions:
        return None
    first = predictions[0]
    kind = np.float64 if task == "regression" else object
    return Scores(
        tuple(first["id"]),
        first["truth"].to_numpy(dtype=kind),
        np.stack([each["prediction"].to_numpy(dtype=kind) for each in predictions]),
        {
            "parameters": costs[0]["parameters"],
            "epochs": [each["epochs"] for each in costs],
            "train_seconds": [round(each["seconds"]["train"], 1) for each in costs],
            "peak_memory_mb": [round(each["peak_memory_bytes"] / 1e6) for each in costs],
            "alarms": sum(bool(each.get("alarms")) for each in costs),
        },
    )


def _baseline_scores(baseline: Baseline, task: str, table: pd.DataFrame) -> Scores:
    given = baseline.predictions[task]
    ids = tuple(sorted(given[0]))
    kind, column = (np.float64, "score") if task == "regression" else (object, "label")
    return Scores(
        ids,
        table.loc[list(ids), column].to_numpy(dtype=kind),
        np.array([[seed[each] for each in ids] for seed in given], dtype=kind),
    )


def _judge(
    benchmark: Benchmark,
    name: str,
    task: str,
    metrics: Sequence[str],
    systems: Mapping[str, Scores],
    table: pd.DataFrame,
) -> dict[str, Any]:
    """Score one system, and compare its first metric with the systems that it is held against."""
    own = systems[name]
    per_seed = [score(task, own.truth, each, benchmark.protocol) for each in own.predictions]
    result: dict[str, Any] = {
        "row": name,
        "seeds": len(per_seed),
        "n": len(own.ids),
        "mean": {key: float(np.mean([each[key] for each in per_seed])) for key in metrics},
        "sd": {key: float(np.std([each[key] for each in per_seed], ddof=1)) for key in metrics}
        if len(per_seed) > 1
        else {},
        "each_seed": {key: [each[key] for each in per_seed] for key in metrics},
        **own.extra,
        "against": {},
    }
    rows = {row.name: row for row in benchmark.rows}
    for other in rows[name].against if name in rows else ():
        if other in systems and systems[other].ids == own.ids:
            groups = table.loc[list(own.ids), "group"]
            result["against"][other] = compare(
                task, metrics, own, systems[other], list(groups) if groups.notna().all() else None,
                benchmark.protocol,
            )  # fmt: skip
    return result


def score(task: str, truth: NDArray[Any], found: NDArray[Any], protocol: str) -> Mapping[str, Any]:
    """Score one seed's predictions `[rows]` by a task's metrics."""
    if task == "regression":
        return regression_metrics(truth, found, "sims" if protocol == "sims" else "mosi")
    return classification_metrics(list(truth), list(found), sorted(set(truth)))


def compare(
    task: str,
    metrics: Sequence[str],
    first: Scores,
    second: Scores,
    groups: list[str] | None,
    protocol: str,
) -> dict[str, Any]:
    """Return difference, interval and p-value of every metric that resamples can score."""
    counts = draw_counts(len(first.ids), groups, resamples=RESAMPLES)
    resampled = [_resampled(task, each, counts, protocol) for each in (first, second)]
    whole = np.ones((1, len(first.ids)), np.float32)
    exact = [_resampled(task, each, whole, protocol) for each in (first, second)]
    found = {}
    for key in metrics:
        if key not in resampled[0]:
            continue
        difference = exact[0][key].mean() - exact[1][key].mean()
        judged = paired_difference(float(difference), resampled[0][key], resampled[1][key])
        if judged is not None:
            found[key] = {
                "difference": float(difference),
                "interval": [judged.low, judged.high],
                "p_value": judged.p_value,
            }
    return found


def _resampled(
    task: str, scores: Scores, counts: NDArray[np.float32], protocol: str
) -> dict[str, NDArray[np.float64]]:
    """Score every resample for every seed, `[seeds, resamples]` for each metric."""
    if task == "regression":
        statistics = regression_statistics("sims" if protocol == "sims" else "mosi")
        truth, predictions = scores.truth, scores.predictions
    else:
        labels = sorted(set(scores.truth))
        statistics = classification_statistics(len(labels))
        number = {label: place for place, label in enumerate(labels)}
        truth = np.array([number[each] for each in scores.truth])
        predictions = np.array([[number.get(e, -1) for e in seed] for seed in scores.predictions])
    each = [score_resamples(statistics, truth, seed, counts) for seed in predictions]
    return {key: np.stack([seed[key] for seed in each]) for key in each[0]}


def _shown(row: Mapping[str, Any], compared: int) -> dict[str, str]:
    cells = {"row": row["row"], "seeds": str(row["seeds"])}
    for key, mean in row["mean"].items():
        scale = 1 if key in ("mae", "corr", "r2") else 100
        digits = 3 if scale == 1 else 2
        spread = f" ± {row['sd'][key] * scale:.{digits}f}" if row["sd"] else ""
        cells[key] = f"{mean * scale:.{digits}f}{spread}"
    differences = []
    for other, metrics in row["against"].items():
        for key, judged in list(metrics.items())[:compared]:
            scale = 1 if key in ("mae", "corr", "r2") else 100
            what = f"{other}: {key}" if compared > 1 else f"{other}:"
            differences.append(f"{what} {show_difference(judged, scale)}")
    cells["against"] = "; ".join(differences)
    cells["fusion parameters"] = (
        f"{row['parameters'].get('fusion', 0):,}" if "parameters" in row else ""
    )
    cells["train s"] = f"{np.mean(row['train_seconds']):.0f}" if "train_seconds" in row else ""
    return cells


def show_difference(judged: Mapping[str, Any], scale: float) -> str:
    """Show what `compare` found of one metric: difference, 95 % interval, p-value."""
    low, high = (each * scale for each in judged["interval"])
    difference = judged["difference"] * scale
    return f"{difference:+.3g} ({low:+.3g} to {high:+.3g}, p {judged['p_value']:.3g})"


def markdown(frame: pd.DataFrame) -> str:
    """Write a frame as a Markdown table."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def _environment() -> dict[str, Any]:
    return {**environment()["libraries"], "cores": os.cpu_count(), "machine": platform.machine()}
