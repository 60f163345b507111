"""How fast stage one is: against its encoders alone, a plain loop, and one worker.

    python benchmarks/extract.py [--meld DIR] [--clips 12] [--rounds 3] [--place DIR]

Clips of MELD's lengths go through encoders of the base size (random weights). Everything is
measured in one run, side by side: each round runs every contender once, ratios are taken within a
round, and their median is reported. Workers are up and encoders loaded before a clock starts,
except where a row says otherwise. Shards are smaller than in a real run, so that the few clips
spread over the workers; more of each shard's last batches is then filling.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from extract_baselines import hold_batches, plain_loop, replay_batches
from extract_material import (
    DATASET,
    MANY,
    TIMES,
    make_base_encoders,
    make_tiny_encoders,
    meld_utterances,
    utterances_like,
    utterances_without_tables,
    write_corpus,
)

from extract.engine import Cluster
from extract.files import sha256_of
from extract.jobs import Job
from pipeline import extraction_plan
from pipeline.extraction import extract_dataset
from pipeline.extraction_plan import Console, DatasetPlan, Request, plan_dataset

RESULTS = Path(__file__).parent / "results" / "extract.json"
LIBRARIES = ("torch", "transformers", "openai-whisper", "open_clip_torch", "av", "distributed")
WORKERS = ("one worker", "two workers")
QUIET = Console(lambda line: None, lambda title, total, unit: nullcontext(lambda count: None))
Specs = Mapping[str, str]


@dataclass(frozen=True)
class Ratio:
    """One line of the result."""

    name: str
    target: float
    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def line(self) -> str:
        verdict = "met" if self.median >= self.target else "MISSED"
        spread = f"{min(self.rounds):.2f} to {max(self.rounds):.2f}"
        return f"{self.name:<64} {self.median:6.2f} ({spread})  >= {self.target:g}: {verdict}"


class Bench:
    """A corpus, and what it takes to extract it afresh again and again.

    Args:
        place: Folder of everything.
        dataset: Which of its tables.
        rows_per_shard: In place of the 512 of a real run.
    """

    def __init__(self, place: Path, dataset: str, rows_per_shard: int) -> None:
        self._place, self._dataset, self._rows_per_shard = place, dataset, rows_per_shard

    def plan(self, specs: Specs, modalities: Sequence[str] = ()) -> DatasetPlan:
        """Plan an extraction of everything, whatever the cache holds."""
        extraction_plan.ROWS_PER_SHARD = self._rows_per_shard
        request = Request(
            dataset=self._dataset,
            cache=self._place / "cache",
            data_root=self._place / "corpus",
            manifest=self._place / "corpus" / "manifest.yaml",
            specs=specs,
            modalities=tuple(modalities),
            fresh=True,
        )
        return plan_dataset(request, QUIET)

    def extract(self, cluster: Cluster, specs: Specs, modalities: Sequence[str] = ()) -> float:
        """Extract the corpus; return the seconds, planning included."""
        began = time.perf_counter()
        summary = extract_dataset(self.plan(specs, modalities), cluster, QUIET)
        seconds = time.perf_counter() - began
        assert summary.set_aside() == len(summary.failures) == 0, summary
        return seconds

    def digest(self) -> str:
        """Return the SHA-256 over the digests of all shards in the cache."""
        shards = sorted((self._place / "cache" / self._dataset).rglob("*.h5"))
        return hashlib.sha256("".join(map(sha256_of, shards)).encode()).hexdigest()

    def jobs(self, specs: Specs) -> list[Job]:
        """Return the jobs of an extraction."""
        planned = self.plan(specs)
        return [
            Job(one.identity, one.folder, shard, one.info, planned.settings, "cpu", 1)
            for one in planned.modalities
            for shard in one.plan.todo
        ]


def replay(cluster: Cluster, jobs: Sequence[Job]) -> Callable[[], float]:
    """Let each worker hold its share of the batches; return what replays them all at once.

    What that returns are the seconds that the workers would need if none ever waited.
    """
    client = cluster.start(len(jobs))
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    shares = {worker: jobs[at :: len(workers)] for at, worker in enumerate(workers)}
    client.gather(
        [client.submit(hold_batches, share, workers=[w], pure=False) for w, share in shares.items()]
    )

    def run() -> float:
        futures = [client.submit(replay_batches, workers=[w], pure=False) for w in workers]
        return sum(client.gather(futures)) / len(workers)

    return run


@contextmanager
def looping(bench: Bench, specs: Specs, place: Path) -> Iterator[Callable[[], float]]:
    """Yield what runs the plain loop once, in a process of its own."""
    planned = bench.plan(specs)
    rows = {one.identity.modality: one.rows for one in planned.modalities}
    infos = {one.identity.modality: one.info for one in planned.modalities}
    cores = len(os.sched_getaffinity(0))
    runs = iter(range(1000))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:

        def run(part: slice = slice(None)) -> float:
            chosen = {modality: each[part] for modality, each in rows.items()}
            folder = place / "loop" / str(next(runs))
            return pool.submit(plain_loop, chosen, infos, planned.settings, cores, folder).result()

        run(slice(2))
        yield run


def measure_base(
    bench: Bench, many: Bench, specs: Specs, place: Path, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each contender, by round; audio alone is quick and takes `many`."""
    bucket = {**specs, "audio": f"{specs['audio']}@bucket"}
    cores = len(os.sched_getaffinity(0))
    with Cluster("cpu", cores, None) as cluster, looping(bench, specs, place) as loop:
        bench.extract(cluster, bucket)  # warms up
        held = replay(cluster, bench.jobs(specs))
        contenders: dict[str, Callable[[], float]] = {
            "plain loop": loop,
            "end to end, full": lambda: bench.extract(cluster, specs),
            "encoders alone, full": held,
            "end to end, bucket": lambda: bench.extract(cluster, bucket),
            "audio alone, full": lambda: many.extract(cluster, specs, ["audio"]),
            "audio alone, bucket": lambda: many.extract(cluster, bucket, ["audio"]),
        }
        return run_rounds(contenders, rounds)


def measure_workers(bench: Bench, specs: Specs, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of one and of two workers, by round, and once with their start.

    Raises:
        RuntimeError: they did not write the same bytes.
    """
    digests = set()

    def extract(cluster: Cluster) -> float:
        seconds = bench.extract(cluster, specs)
        digests.add(bench.digest())
        return seconds

    with Cluster("cpu", 1, None) as one, Cluster("cpu", 2, None) as two:
        contenders = dict(zip(WORKERS, (partial(extract, one), partial(extract, two)), strict=True))
        started = run_rounds(
            {f"tiny, {name}, with start-up": run for name, run in contenders.items()}, 1
        )
        seconds = run_rounds({f"tiny, {name}": run for name, run in contenders.items()}, rounds)
    if len(digests) > 1:
        raise RuntimeError("one and two workers wrote different bytes")
    return started | seconds


def run_rounds(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Run every contender once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            seconds[name].append(run())
    return seconds


def ratios_of(seconds: Mapping[str, list[float]]) -> list[Ratio]:
    """Return the figures, each with its target."""

    def ratio(name: str, target: float, above: str, below: str) -> Ratio:
        pairs = zip(seconds[above], seconds[below], strict=True)
        return Ratio(name, target, [first / second for first, second in pairs])

    end, loop = "end to end", "plain loop"
    return [
        ratio("encoders alone / end to end, full", 0.85, "encoders alone, full", f"{end}, full"),
        ratio("audio alone: full / bucket", 6, "audio alone, full", "audio alone, bucket"),
        ratio("plain loop / end to end, full", 1.1, loop, f"{end}, full"),
        ratio("plain loop / end to end, bucket", 1.6, loop, f"{end}, bucket"),
        ratio("tiny: one worker / two workers", 1.6, "tiny, one worker", "tiny, two workers"),
    ]


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast stage one is.")
    parser.add_argument("--meld", type=Path, help="folder of MELD's three CSV files")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, help="an empty folder to work in, which is kept")
    options = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        place = (options.place or Path(temporary)).absolute()
        everyone = meld_utterances(options.meld) if options.meld else utterances_without_tables()
        spoken = utterances_like(everyone, options.clips)
        hours = write_corpus(place / "corpus", spoken)
        texts = [one.text for one in everyone]
        base = make_base_encoders(place / "models", texts)
        tiny = make_tiny_encoders(place / "models", texts)
        cores = len(os.sched_getaffinity(0))
        print(
            f"{options.clips} clips, {hours * 3600:.0f} s of media, made in "
            f"{time.perf_counter() - began:.0f} s; {cores} cores",
            flush=True,
        )
        small = Bench(place, MANY, max(1, options.clips * TIMES // 8))
        seconds = measure_workers(small, tiny, options.rounds)
        print(f"workers compared after {time.perf_counter() - began:.0f} s", flush=True)
        bench = Bench(place, DATASET, max(1, options.clips // cores))
        many = Bench(place, MANY, max(1, options.clips * TIMES // cores))
        seconds |= measure_base(bench, many, base, place, options.rounds)
    report(options, hours, seconds)
    print(f"all in {time.perf_counter() - began:.0f} s")


def report(options: argparse.Namespace, hours: float, seconds: Mapping[str, list[float]]) -> None:
    """Print the tables and write the same as JSON."""
    print(f"\n{'seconds (median of rounds)':<40} {'median':>8} {'clips/s':>8}")
    for name, each in seconds.items():
        median = statistics.median(each)
        clips = options.clips * (TIMES if name.startswith(("tiny", "audio")) else 1)
        print(f"{name:<40} {median:8.2f} {clips / median:8.2f}")
    print()
    ratios = ratios_of(seconds)
    for one in ratios:
        print(one.line())
    started = [seconds[f"tiny, {count}, with start-up"][0] for count in WORKERS]
    print(f"tiny, start-up and loading included, once: {started[0] / started[1]:.2f}")
    print("shards of one and of two workers: every sha256 the same, in every round")
    RESULTS.parent.mkdir(exist_ok=True)
    content = {
        "settings": {
            "clips": options.clips,
            "rounds": options.rounds,
            "durations": "MELD's tables" if options.meld else "MELD's quantiles",
            "media_seconds": round(hours * 3600, 2),
        },
        "environment": environment(),
        "seconds": {name: [round(one, 3) for one in each] for name, each in seconds.items()},
        "ratios": {
            one.name: {
                "median": round(one.median, 3),
                "rounds": [round(each, 3) for each in one.rounds],
                "target": one.target,
            }
            for one in ratios
        },
        "same_bytes_with_one_and_two_workers": True,  # anything else has stopped the run
        "with_start_up": {"tiny: one worker / two workers": round(started[0] / started[1], 3)},
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
