"""The settings of every kind of fusion, chosen by a grid each.

    python benchmarks/scores/search.py --data DIR --text-encoder DIR [--work DIR]

MELD: on the validation split. MOSI: on the simulated test split that `mosi_baselines.py` makes,
never on the real one. The best of each grid is what the rows of `meld.py` and `mosi.py` train with.
Writes `results/search.md` and `.json`.
Protocol: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import meld
import mosi
import mosi_baselines
import pandas as pd
from harness import (
    HERE,
    OTHER_FUSIONS,
    SEEDS,
    Benchmark,
    command,
    markdown,
    publish,
    variant,
)

from fuse.config import VARIANTS
from pipeline.searches import read_study


@dataclass(frozen=True)
class Search:
    """A grid for kinds of fusion: the dataset it is tried on, with which flags and seeds.

    `study` names the grid among `studies/`, as `egmf-train --study` reads it.
    """

    study: str
    kinds: tuple[str, ...]
    benchmark: Benchmark
    dataset: str
    flags: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def file(self) -> Path:
        """The grid's file."""
        return HERE / "studies" / f"{self.study}.yaml"


IN_CONTEXT = (*mosi.THREE, *mosi.CONTEXT)
SEARCHES = (
    Search("meld", ("egmf",), meld.BENCHMARK, meld.DATASET, (), SEEDS[:1]),
    Search("meld_variants", OTHER_FUSIONS, meld.BENCHMARK, meld.DATASET, (), SEEDS[:1]),
    Search("mosi", VARIANTS, mosi.BENCHMARK, "mosi_simulated", IN_CONTEXT, SEEDS[:2]),
)


def main() -> None:
    """Prepare both corpora, try every setting, and write down what came of it."""
    parser = ArgumentParser(description="The settings of every kind of fusion, by a grid each.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="cache and runs go here")
    parser.add_argument("--text-encoder", type=Path, required=True, help="a model directory")
    options = parser.parse_args()
    meld.prepare(options)
    simulate(options)
    for search in SEARCHES:
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
        *("egmf-train", "--from-cache", "--resume", "--study", search.file),
        *("--dataset", search.dataset, "--manifest", str(benchmark.manifest)),
        *("--cache", options.work / "cache", "--runs", options.work / "runs"),
        *("--preset", "tiny", "--experiment", f"search-{name}"),
        *(flag for seed in search.seeds for flag in ("--seed", str(seed))),
        *benchmark.flags,
        *search.flags,
        *variant(name),
    )


def write(options: Namespace) -> None:
    """Publish every trial of every grid."""
    found: dict[str, Any] = {}
    text: list[str] = []
    for search in SEARCHES:
        space = read_study(search.file).space
        best, trials = {}, []
        for name in search.kinds:
            folder = options.work / "runs" / search.dataset / f"search-{name}"
            table = pd.read_csv(folder / "trials.csv")
            trials.append(table.drop(columns=["seconds", "reason"]).assign(fusion=name))
            best[name] = table.loc[table["validation"].idxmax(), list(space)].to_dict()
        table = pd.concat(trials, ignore_index=True)
        found[search.study] = {"best": best, "trials": table.to_dict("records")}
        shown = table.pivot_table("validation", list(space), "fusion", sort=False)
        text += [f"## {search.study}", "", markdown(rounded(shown)), ""]
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
