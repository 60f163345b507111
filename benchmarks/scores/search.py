"""The settings of every kind of fusion, chosen by the same grid.

    python benchmarks/scores/search.py --data DIR --text-encoder DIR [--work DIR] [--only meld,mosi]

MELD: on the validation split. MOSI: on the simulated test split that `mosi_baselines.py` makes,
never on the real one; EGMF's settings had been chosen on it before. The best of each grid is what
the rows of `meld.py` and `mosi.py` train with. Writes `results/search.md` and `.json`.
Protocol: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import meld
import mosi
import mosi_baselines
import pandas as pd
import yaml
from harness import (
    HERE,
    SEEDS,
    VARIANTS,
    Benchmark,
    arguments,
    command,
    markdown,
    publish,
    variant,
)


@dataclass(frozen=True)
class Search:
    """A grid for each kind of fusion: the dataset it is tried on, with which flags and seeds."""

    benchmark: Benchmark
    dataset: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]
    kinds: tuple[str, ...]

    @property
    def study(self) -> Path:
        """The grid, as `egmf-train --study` reads it."""
        return HERE / "studies" / f"{self.benchmark.name}.yaml"


SEARCHES = (
    Search(meld.BENCHMARK, meld.DATASET, (), SEEDS[:1], ("egmf", *VARIANTS)),
    Search(mosi.BENCHMARK, "mosi_simulated", (*mosi.THREE, *mosi.CONTEXT), SEEDS[:2], VARIANTS),
)


def main() -> None:
    """Prepare both corpora, try every setting, and write down what came of it."""
    parser = arguments("The settings of every kind of fusion, by the same grid.")
    parser.add_argument("--text-encoder", type=Path, required=True, help="a model directory")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else ["meld", "mosi"]
    if "meld" in wanted:
        meld.prepare(options)
    if "mosi" in wanted:
        simulate(options)
    for search in SEARCHES:
        if search.benchmark.name in wanted:
            for name in search.kinds:
                run(search, name, options)
    write(options)


def simulate(options: Namespace) -> None:
    """Write MOSI's simulated test split and import it."""
    mosi_baselines.write_simulated(options.data, options.work)
    command(
        *("egmf-cache", "import", options.work / mosi_baselines.SIMULATED),
        *("--dataset", "mosi_simulated", "--manifest", mosi.MANIFEST),
        *("--data-root", options.work, "--cache", options.work / "cache"),
    )


def run(search: Search, name: str, options: Namespace) -> None:
    """Try every setting of a grid for one variant; what has been tried is not tried again."""
    benchmark = search.benchmark
    command(
        *("egmf-train", "--from-cache", "--resume", "--study", search.study),
        *("--dataset", search.dataset, "--manifest", str(benchmark.manifest)),
        *("--cache", options.work / "cache", "--runs", options.work / "runs"),
        *("--preset", "tiny", "--experiment", f"search-{name}"),
        *(flag for seed in search.seeds for flag in ("--seed", str(seed))),
        *benchmark.flags,
        *search.flags,
        *variant(name),
    )


def write(options: Namespace) -> None:
    """Publish every trial of every finished grid."""
    found: dict[str, Any] = {}
    text: list[str] = []
    for search in SEARCHES:
        best = {}
        trials = []
        for name in search.kinds:
            folder = options.work / "runs" / search.dataset / f"search-{name}"
            if not (folder / "best.yaml").is_file():
                continue
            best[name] = yaml.safe_load((folder / "best.yaml").read_text(encoding="utf-8"))
            table = pd.read_csv(folder / "trials.csv")
            trials.append(table.drop(columns=["seconds", "reason"]).assign(fusion=name))
        if trials:
            table = pd.concat(trials, ignore_index=True)
            shown = table.pivot_table(
                "validation", list(yaml.safe_load(search.study.read_text())["space"]), "fusion"
            )
            found[search.benchmark.name] = {"best": best, "trials": table.to_dict("records")}
            text += [f"## {search.benchmark.name}", "", markdown(rounded(shown)), ""]
    publish("search", found, text)


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of scores as cells, the best of each column in bold."""
    best = table.max()
    cells = table.apply(
        lambda scores: [
            f"**{each:.4f}**" if each == best[scores.name] else f"{each:.4f}" for each in scores
        ]
    )
    return cells.reset_index().astype(str)


if __name__ == "__main__":
    main()
