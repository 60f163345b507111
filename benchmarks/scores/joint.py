"""The demo's two languages and two tasks: one model beside separate ones, and what transfers.

    python benchmarks/scores/joint.py --cache DIR [--runs DIR] [--seed N ...]

DIR is a cache that holds the demo (`egmf-extract --dataset demo`). Trains one model on everything,
one for each language, for each task, and for each language and task; what is finished is not
trained again. Every model is tested in both languages: a row is what it was trained on, a column
what it is tested on. Differences are to the one model, by paired bootstrap over dialogues.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import RESULTS, Scores, command, compare, score

from pipeline.runs import environment

LANGUAGES = ("en", "zh")
TASKS = {"classification": ("weighted_f1", 100, 2), "regression": ("corr", 1, 3)}
"""The metric of each task, what it is multiplied by and its digits in the table."""


@dataclass(frozen=True)
class Model:
    """What one model is trained on: all languages or one, both tasks or one."""

    language: str | None
    task: str | None

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of `egmf-train`."""
        language = ("--languages", self.language) if self.language else ()
        return (*language, *(("--tasks", self.task) if self.task else ()))

    @property
    def experiment(self) -> str:
        """The name that `egmf-train` gives it."""
        task = f"-only-{self.task}" if self.task else ""
        return "egmf" + task + (f"-trained-on-{self.language}" if self.language else "")

    @property
    def title(self) -> str:
        """What it is trained on, for people."""
        return f"{self.language or ' + '.join(LANGUAGES)}, {self.task or 'both tasks'}"


ONE = Model(None, None)
MODELS = tuple(Model(language, task) for task in (None, *TASKS) for language in (None, *LANGUAGES))


def main() -> None:
    """Train what is missing, then print the matrices and write them to `results/`."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seed", type=int, action="append")
    options = parser.parse_args()
    seeds = options.seed or [1111]
    asked = [flag for seed in seeds for flag in ("--seed", str(seed))]
    for model in MODELS:
        command(
            "egmf-train", "--from-cache", "--resume", "--dataset", "demo",
            "--cache", options.cache, "--runs", options.runs, *asked, *model.flags,
        )  # fmt: skip
    table = pd.read_parquet(options.cache / "demo" / "utterances.parquet").set_index("id")
    rows = [_row(model, options.runs, seeds, table["group"]) for model in MODELS]
    text = "\n".join(["# One model beside many, on the demo", "", *_markdown(rows)])
    record = {"seeds": seeds, "rows": rows, "environment": environment()["libraries"]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "joint.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "joint.md").write_text(text + "\n")
    print(text)


def _row(model: Model, runs: Path, seeds: list[int], groups: pd.Series) -> dict[str, Any]:
    """Score a model on each task and language, and compare it with the one model."""
    folders = [runs / "demo" / model.experiment / f"seed-{seed}" for seed in seeds]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    cells = {}
    for task in TASKS if model.task is None else (model.task,):
        for language in LANGUAGES:
            own = _scores(folders, task, language)
            metric, owners = TASKS[task][0], list(groups.loc[list(own.ids)])
            scores = [score(task, own.truth, each, "mosi")[metric] for each in own.predictions]
            cell: dict[str, Any] = {"n": len(own.ids), "score": float(np.mean(scores))}
            if model != ONE:
                ones = [runs / "demo" / ONE.experiment / folder.name for folder in folders]
                other = _scores(ones, task, language)
                cell["to_one"] = compare(task, (metric,), own, other, owners, "mosi")[metric]
            cells[f"{task}/{language}"] = cell
    return {
        "model": model.title,
        "cells": cells,
        "train_seconds": [round(each["seconds"]["train"], 1) for each in results],
        "steps": [each["steps"] for each in results],
    }


def _scores(folders: list[Path], task: str, language: str) -> Scores:
    """Return the predictions for a task in a language, of every seed."""
    kind: Any = np.float64 if task == "regression" else object
    found = []
    for folder in folders:
        frame = pd.read_csv(folder / "predictions-test.csv", dtype={"id": str})
        chosen = (frame["task"] == task) & (frame["language"] == language)
        found.append(frame[chosen & frame["truth"].notna()].sort_values("id"))
    predictions = np.stack([each["prediction"].to_numpy(dtype=kind) for each in found])
    return Scores(tuple(found[0]["id"]), found[0]["truth"].to_numpy(dtype=kind), predictions)


def _markdown(rows: list[dict[str, Any]]) -> list[str]:
    columns = [f"{task}/{language}" for task in TASKS for language in LANGUAGES]
    titles = [f"{TASKS[task][0]}, {language}" for task in TASKS for language in LANGUAGES]
    lines = [
        "Trained on the row, tested on the column. In brackets: difference from the one model, and "
        "p of a paired bootstrap over dialogues, not corrected for the number of comparisons; of "
        "one seed it judges these training runs, not the method.",
        "",
        f"| trained on | {' | '.join(titles)} | steps | train s |",
        "|---|" + "---:|" * (len(titles) + 2),
    ]
    for row in rows:
        cells = [_cell(name, row["cells"].get(name)) for name in columns]
        steps, seconds = np.mean(row["steps"]), np.mean(row["train_seconds"])
        lines.append(f"| {row['model']} | {' | '.join(cells)} | {steps:.0f} | {seconds:.0f} |")
    return lines


def _cell(name: str, cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    _, scale, digits = TASKS[name.split("/")[0]]
    text = f"{cell['score'] * scale:.{digits}f}"
    if "to_one" in cell:
        other = cell["to_one"]
        text += f" ({other['difference'] * scale:+.{digits}f}, p {other['p_value']:.3f})"
    return text


if __name__ == "__main__":
    main()
