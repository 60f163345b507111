"""How data reaches the model: start-up, reading against training, memory against corpus size.

    python benchmarks/data.py [--place DIR] [--part cherma|memory] [--share 1.0] [--out FILE]

All features are made up and written by the code that writes real ones, into a temporary folder
under `--place` that is removed afterwards; the first part needs 11 GB of disk at `--share 1.0`.

1. Start-up: `egmf-train` on a cache of CHERMA's shape (28,717 utterances; audio 150 rows of 1,024
   on average, at most 543; visual 16 of 2,048; float16), from the command to the end of its first
   training step, in new processes: once with nothing remembered, once as every later run meets it.
   Memory is compared with a process that imports the same libraries and loads the same model.
2. Reading: utterances a second from shards to padded batches, nothing kept in memory, against what
   the training step of the `tiny` preset consumes, each alone on one thread; then a stretch of
   training that reads ahead against the same steps on batches that are ready.
3. Memory: one epoch of reading and tokenising 5,000 and 100,000 utterances, in new processes.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

# `extract` is the package, not the benchmark beside this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RESULTS = Path(__file__).parent / "results" / "data.json"
DATASET = "cherma"
SPLITS = {"train": 17_230, "valid": 5_743, "test": 5_744}
STEPS = 12


def peak_bytes() -> int:
    """Return this process's peak memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def child(part: str, *arguments: str | Path) -> dict[str, Any]:
    """Run a part of this benchmark in a new process; returns what it prints last, as JSON."""
    command = [sys.executable, __file__, "--child", part, str(time.time()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def first_step(began: float, cache: Path, runs: Path) -> None:
    """Run `egmf-train` up to the end of its first optimizer step."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from pipeline.commands.train import main

    def stop(*_: object) -> None:
        report(seconds=time.time() - began)

    register_optimizer_step_post_hook(stop)
    sys.argv = ["egmf-train", "--from-cache", "--dataset", DATASET, "--preset", "tiny"]
    sys.argv += ["--cache", str(cache), "--runs", str(runs), "--fresh", "--device", "cpu"]
    main()


def load_alone(began: float, cache: Path) -> None:
    """Import what training imports and load the same language model, and nothing else."""
    import torch

    import pipeline.one_run  # noqa: F401
    from pipeline.llm import language_model_of
    from pipeline.model import open_backbone

    open_backbone(language_model_of("tiny", None, cache).source, torch.device("cpu"))
    report(seconds=time.time() - began)


def report(**found: Any) -> None:
    """Print what was found, and what this process cost, and end it at once."""
    costs = {"cpu_seconds": time.process_time(), "peak_bytes": peak_bytes()}
    print(json.dumps({**found, **costs}), flush=True)
    os._exit(0)


def reading(began: float, cache: Path) -> None:
    """Compare reading with training on batches of the same utterances."""
    import torch

    from pipeline import features as features_module

    torch.set_num_threads(1)
    features_module.MEMORY_BYTES = 0  # every row comes from its shard
    loop = TinyTraining(cache)
    shares = loop.shares[: STEPS + 2]
    ready = [loop.read(share) for share in shares]  # opens the shards
    for share, each in zip(shares[:2], ready[:2], strict=True):  # libraries warm up
        loop.step(share, each)
    shares, ready = shares[2:], ready[2:]
    count = sum(len(share.utterances) for share in shares)

    def read_all() -> None:
        for share in shares:
            loop.read(share)

    def train_all() -> None:
        for share, each in zip(shares, ready, strict=True):
            loop.step(share, each)

    def train_reading() -> None:
        from pipeline.ahead import ahead

        for share, each in ahead(loop.read, shares):
            loop.step(share, each)

    alone, training, both = seconds(read_all), seconds(train_all), seconds(train_reading)
    report(
        utterances=count,
        read_per_second=count / alone,
        trained_per_second=count / training,
        trained_while_reading_per_second=count / both,
        times_faster=training / alone,
        slower_for_reading=both / training,
    )


def seconds(work: Callable[[], None]) -> float:
    """Time a piece of work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class TinyTraining:
    """The training step of the `tiny` preset on a cache."""

    def __init__(self, cache: Path) -> None:
        import torch

        from generate.backbone import load_backbone
        from pipeline.batching import share_of
        from pipeline.distributed import Processes
        from pipeline.fitting import task_of
        from pipeline.llm import language_model_of
        from pipeline.model import build_model
        from pipeline.optimizer import make_optimizer
        from pipeline.parts import Part
        from pipeline.sampler import epoch_batches
        from pipeline.settings import resolve_settings

        self.settings = settings = resolve_settings("tiny", [])
        corpus, inputs = open_inputs(cache, settings.pool)
        llm = language_model_of("tiny", None, cache)
        backbone = load_backbone(llm.source, device=torch.device("cpu"), dtype=torch.float32)
        torch.manual_seed(1)
        task, dims = task_of(corpus), inputs.features.dims
        targets = len(task.labels) + 1
        self.model = build_model(
            backbone, dims, targets, settings, variant="egmf", ablate=(), reach=0
        ).train()
        prompter = make_prompter(self.model.language, corpus)
        part = Part(DATASET, inputs, prompter, corpus.utterances, task)
        rows = epoch_batches(corpus.utterances["train"], settings.batch_size, 1, 1)
        self.shares = [share_of(part, each, 1, Processes()) for each in rows]
        self.optimizer, _ = make_optimizer(self.model, settings, 1000)

    def read(self, share: Any) -> Any:
        return share.read(self.settings)

    def step(self, share: Any, read: Any) -> None:
        import torch

        from pipeline.batching import make_batch
        from pipeline.checkpoints import trainable
        from pipeline.objective import add_gradients, counts_of

        self.optimizer.zero_grad(set_to_none=True)
        batch = make_batch(share, read)
        counts = counts_of(batch, self.model.language)
        add_gradients(self.model, batch, counts, self.settings, lambda value: value)
        torch.nn.utils.clip_grad_norm_(trainable(self.model), self.settings.clip)
        self.optimizer.step()


def open_inputs(cache: Path, pool: dict[str, int]) -> tuple[Any, Any]:
    """Open the corpus and its features, as training does."""
    from pipeline.context import find_context
    from pipeline.features import Features
    from pipeline.inputs import Inputs
    from pipeline.scaling import fit_scaling
    from pipeline.sources import Source, open_corpus, require_extracted

    corpus = open_corpus(Source(DATASET, cache, (), {}, None), ("train",), lambda _: None)
    require_extracted(corpus)
    scaling = fit_scaling(corpus.sets, pool, [each.id for each in corpus.utterances["train"]])
    every = [each for rows in corpus.utterances.values() for each in rows]
    return corpus, Inputs(Features(corpus.sets, pool, scaling), find_context(every, 0, 0))


def make_prompter(language: Any, corpus: Any) -> Any:
    """Return a prompter that shows transcripts."""
    from pipeline.context import Context
    from pipeline.items import questions_of
    from pipeline.prompting import Prompter

    questions = questions_of(corpus.entry, ["zh"])
    return Prompter(language, questions, Context(), reads_text=True, max_tokens=512)


def one_epoch(began: float, cache: Path) -> None:
    """Read and tokenise a shuffled epoch, and keep none of it."""
    import torch

    from generate.backbone import load_language_model
    from pipeline.ahead import ahead
    from pipeline.llm import language_model_of
    from pipeline.sampler import epoch_batches

    torch.set_num_threads(1)
    llm = language_model_of("tiny", None, cache.parent)
    language = load_language_model(
        llm.source, lora=None, device=torch.device("cpu"), dtype=torch.float32
    )
    corpus, inputs = open_inputs(cache, {"audio": 4})
    prompter = make_prompter(language, corpus)
    rows = corpus.utterances["train"]
    started = time.perf_counter()
    for batch, _ in ahead(inputs.batch, epoch_batches(rows, 32, 1, 1)):
        for each in batch:
            prompter.tokens("classification", each)
    report(
        utterances=len(rows),
        utterances_per_second=len(rows) / (time.perf_counter() - started),
    )


CHILDREN: dict[str, Callable[..., None]] = {
    "first-step": first_step,
    "load-alone": load_alone,
    "reading": reading,
    "one-epoch": one_epoch,
}


def start_up_and_reading(folder: Path, share: float) -> dict[str, Any]:
    """Measure parts 1 and 2 on a cache of CHERMA's shape, or of a share of its size."""
    from data_cache import CHERMA, write_cache

    from pipeline.llm import language_model_of

    cache, runs = folder / "cache", folder / "runs"
    splits = {name: round(count * share) for name, count in SPLITS.items()}
    started = time.perf_counter()
    write_cache(cache, DATASET, splits, CHERMA)
    wrote = time.perf_counter() - started
    language_model_of("tiny", None, cache)  # made before, as a model is downloaded before
    size = sum(path.stat().st_size for path in cache.rglob("*.h5"))
    say(f"wrote {size / 1e9:.1f} GB in {wrote:.0f} s")
    model = child("load-alone", cache)
    found: dict[str, Any] = {"cache_gb": size / 1e9, "written_seconds": wrote, "model": model}
    for name in ("first run", "later run"):
        each = child("first-step", cache, runs)
        each["beyond_model_bytes"] = each["peak_bytes"] - model["peak_bytes"]
        for clock in ("seconds", "cpu_seconds"):
            each[f"beyond_model_{clock}"] = each[clock] - model[clock]
        found[name] = each
        say(
            f"{name}: first step after {each['seconds']:.1f} s, {each['cpu_seconds']:.1f} s of "
            f"computing (model alone {model['seconds']:.1f} and {model['cpu_seconds']:.1f}), "
            f"{each['beyond_model_bytes'] / 2**20:.0f} MiB beyond it"
        )
    found["reading"] = each = child("reading", cache)
    shutil.rmtree(cache)
    say(
        f"read {each['read_per_second']:.0f}, trained {each['trained_per_second']:.0f} utterances "
        f"a second: {each['times_faster']:.1f} times faster; training that reads ahead takes "
        f"{each['slower_for_reading']:.2f} times as long"
    )
    return found


def memory(folder: Path) -> dict[str, Any]:
    """Measure part 3."""
    from data_cache import SMALL, write_cache

    found: dict[str, Any] = {}
    for count in (5_000, 100_000):
        cache = folder / f"cache-{count}"
        write_cache(cache, DATASET, {"train": count}, SMALL)
        found[str(count)] = each = child("one-epoch", cache)
        say(f"{count:,} utterances: peak {each['peak_bytes'] / 2**20:.0f} MiB")
        shutil.rmtree(cache)
    grown = found["100000"]["peak_bytes"] - found["5000"]["peak_bytes"]
    say(f"grown by {grown / 1e6:.0f} MB")
    return {**found, "grown_bytes": grown}


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def measure(options: Namespace) -> None:
    """Run all parts and write down what came out."""
    from pipeline.runs import environment

    result = json.loads(options.out.read_text("utf-8")) if options.out.is_file() else {}
    with tempfile.TemporaryDirectory(dir=options.place) as name:
        if options.part in ("all", "cherma"):
            found = start_up_and_reading(Path(name), options.share)
            result["cherma"] = {"share": options.share, **found}
        if options.part in ("all", "memory"):
            result["memory"] = memory(Path(name))
    result["environment"] = {
        **environment()["libraries"],
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(f"written to {options.out}")


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["--child"]:
        part, began, *paths = sys.argv[2:]
        CHILDREN[part](float(began), *map(Path, paths))
        return
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--place", type=Path, help="where the temporary folder is made")
    parser.add_argument("--part", choices=("all", "cherma", "memory"), default="all")
    parser.add_argument("--share", type=float, default=1.0, help="of the utterances of part 1")
    parser.add_argument("--out", type=Path, default=RESULTS)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
