"""Training and evaluation of egmf beside the way of its predecessor: time, memory, equal losses.

    python benchmarks/train.py [--meld DIR] [--out FILE]

Both ways run in one process, in turn, on the same weights, the same batches and the same
transcripts, so that their ratio holds where absolute times do not. The language model has the shape
of Qwen2.5-0.5B and random weights in float32, with LoRA on every linear layer; the features have
the shapes of the `base` encoders.

The predecessor's way (MSE-Adapter, arXiv 2502.12478, as its training loop was published), with its
unpassed attention mask passed, since it would compute something else without: transcripts are
padded to 65 tokens whatever they hold, logits are computed at every position, a key-value cache is
built in training, and evaluation lets the model generate up to 4 tokens a batch, each batch reading
its whole prompt. egmf's way is the code that `egmf-train` runs, with `length_window=20`.

Without `--meld` (the folder of MELD's three CSV files) transcripts of random words have MELD's
lengths by a table of quantiles.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# `extract` is the package, not the benchmark beside this one.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from train_material import SEED, SETTINGS, TASK, Bench, invent_meld, make_bench, read_meld
from train_predecessor import TEXT_TOKENS, ids_of, predecessor_evaluation, predecessor_loss

from pipeline.batching import make_batch, share_of
from pipeline.distributed import Processes
from pipeline.evaluation import batches, score
from pipeline.items import Utterance
from pipeline.objective import add_gradients, counts_of
from pipeline.runs import environment
from pipeline.sampler import epoch_batches

RESULTS = Path(__file__).parent / "results" / "train.json"


def egmf_loss(bench: Bench, rows: Sequence[Utterance]) -> Tensor:
    """Return the loss of a batch, its gradients added, as `egmf-train` computes it."""
    share = share_of(bench.part, rows, SEED, Processes())
    batch = make_batch(share, share.read(SETTINGS))
    counts = counts_of(batch, bench.language)
    own, common = add_gradients(bench.model, batch, counts, SETTINGS, lambda value: value)
    return own + common


def egmf_loss_unshared(bench: Bench, rows: Sequence[Utterance]) -> Tensor:
    """Return the same loss, every row encoding the start of its prompt by itself."""
    bench.language.shares_prefix = False
    try:
        return egmf_loss(bench, rows)
    finally:
        bench.language.shares_prefix = True


def egmf_evaluation(bench: Bench, drawn: Sequence[Sequence[Utterance]]) -> None:
    """Score all permitted answers of the same batches, as `egmf-train` does."""
    rows = [each for batch in drawn for each in batch]
    score(bench.model, bench.part.inputs, bench.part.prompter, rows, [TASK], len(drawn[0]))


@dataclass
class Measured:
    """Seconds, of which computing, and peak memory above the loaded weights, of each turn."""

    seconds: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    def summary(self, utterances: int) -> dict[str, Any]:
        return {
            "seconds": [round(each, 2) for each in self.seconds],
            "cpu_seconds": [round(each, 2) for each in self.computing],
            "utterances_per_second": round(utterances / sum(self.seconds), 3),
            "peak_memory_mib": round(max(self.bytes) / 2**20, 1),
        }


def measured(into: Measured, loaded: int, work: Callable[[], Any]) -> Any:
    """Run `work`, and add its time and its peak memory above `loaded` bytes."""
    forget_peak()
    started, computing = time.perf_counter(), time.process_time()
    result = work()
    into.seconds.append(time.perf_counter() - started)
    into.computing.append(time.process_time() - computing)
    into.bytes.append(memory("VmHWM") - loaded)
    return result


def memory(field_name: str) -> int:
    """Return a field of this process's memory, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(each.split()[1]) * 1024 for each in lines if each.startswith(field_name))


def forget_peak() -> None:
    """Give free memory back and start a new high-water mark (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def training_step(bench: Bench, loss_of: Callable[..., Tensor], batch: Any) -> dict[str, float]:
    """Take one step; the rate is zero, so that every way meets the same weights."""
    bench.model.train()
    bench.optimizer.zero_grad(set_to_none=True)
    loss = loss_of(bench, batch)
    trained = [p for group in bench.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, SETTINGS.clip)
    bench.optimizer.step()
    return {"loss": loss.item(), "gradient_norm": float(norm)}


def spread(every: Sequence[list[Utterance]], count: int) -> list[list[Utterance]]:
    """Return batches of evenly spread lengths, which stand for all of them."""
    whole = [each for each in every if len(each) == len(every[0])]
    ordered = sorted(whole, key=lambda batch: max(len(each.text or "") for each in batch))
    return [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]


def compare(
    utterances: Sequence[Utterance], size: int, count: int, evaluated: int, layers: int
) -> dict[str, Any]:
    """Run all ways in turn; returns what they took and how far their losses are apart."""
    bench = make_bench(utterances, layers)
    lengths = {each.id: len(ids_of(bench, each.text or "")) for each in utterances}
    short = [each for each in utterances if lengths[each.id] <= TEXT_TOKENS]
    train = [each for each in short if each.split == "train"]
    test = [each for each in short if each.split == "test"]
    prompts = [bench.part.prompter.tokens(TASK, each).length(0) for each in train]
    epoch = list(epoch_batches(train, size, SEED, 1, prompts, SETTINGS.length_window))
    drawn = spread(epoch, count)
    asked = spread(list(batches(test, size)), evaluated)
    ways = {
        "predecessor": predecessor_loss,
        "egmf": egmf_loss,
        "egmf, prompts not shared": egmf_loss_unshared,
    }
    training = {name: Measured() for name in ways}
    evaluation = {name: Measured() for name in ("predecessor", "egmf")}
    gc.collect()
    forget_peak()
    loaded = memory("VmRSS")
    evaluations = {"predecessor": predecessor_evaluation, "egmf": egmf_evaluation}
    for evaluate in evaluations.values():  # libraries warm up
        evaluate(bench, [asked[0][:2]])
    for name, evaluate in evaluations.items():  # before the optimizer takes memory
        measured(evaluation[name], loaded, partial(evaluate, bench, asked))
        print(f"evaluation {name}: {evaluation[name].seconds[-1]:.2f} s", flush=True)
    for loss_of in ways.values():  # libraries warm up, the optimizer gets its state
        training_step(bench, loss_of, drawn[0][:2])
    losses: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number, batch in enumerate(drawn):
        for name, loss_of in ways.items():
            found = measured(training[name], loaded, partial(training_step, bench, loss_of, batch))
            losses[name].append(found)
            print(f"step {number + 1} {name}: {training[name].seconds[-1]:.2f} s", flush=True)
    return {
        "training": {name: each.summary(size * count) for name, each in training.items()},
        "evaluation": {name: each.summary(size * evaluated) for name, each in evaluation.items()},
        "ratios": ratios(training, evaluation),
        "losses": losses,
        "largest_loss_difference": _apart(losses, "loss"),
        "largest_gradient_norm_difference": _apart(losses, "gradient_norm"),
        "loaded_mib": round(loaded / 2**20),
        "lengths": {
            "transcript_tokens_mean": round(float(np.mean([*lengths.values()])), 2),
            "transcript_tokens_p90": float(np.quantile([*lengths.values()], 0.9)),
            "tokens_a_word": round(
                sum(lengths.values()) / sum(len((u.text or "").split()) for u in utterances), 3
            ),
            "prompt_tokens_mean": round(float(np.mean(prompts)), 1),
            "left_out_longer_than_65": len(utterances) - len(short),
        },
    }


def ratios(training: Mapping[str, Measured], evaluation: Mapping[str, Measured]) -> dict[str, Any]:
    """Return how many times faster than the predecessor, and how much of its memory is needed.

    Faster by the clock, and by the processors' time, which other work on the machine disturbs less.
    """
    found = {}
    for kind, ways in (("training", training), ("evaluation", evaluation)):
        before = ways["predecessor"]
        for name, each in ways.items():
            if name != "predecessor":
                found[f"{kind}, {name}"] = {
                    "times_faster": round(sum(before.seconds) / sum(each.seconds), 2),
                    "times_less_computing": round(sum(before.computing) / sum(each.computing), 2),
                    "memory_share": round(max(each.bytes) / max(before.bytes), 3),
                }
    return found


def _apart(losses: Mapping[str, Sequence[Mapping[str, float]]], key: str) -> float:
    before = [each[key] for each in losses["predecessor"]]
    return max(
        abs(each[key] - own)
        for name, found in losses.items()
        for each, own in zip(found, before, strict=True)
        if name != "predecessor"
    )


def main() -> None:
    """Run the benchmark and write down what came out."""
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--meld", type=Path, help="folder of MELD's CSV files")
    parser.add_argument("--batch", type=int, default=8, help="utterances a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches to train on")
    parser.add_argument("--evaluated", type=int, default=16, help="batches to evaluate on")
    parser.add_argument("--layers", type=int, default=24, help="fewer only to try the benchmark")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, help="of torch; all cores where not given")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    utterances = read_meld(options.meld) if options.meld else invent_meld()
    found = compare(utterances, options.batch, options.batches, options.evaluated, options.layers)
    result = {
        "benchmark": "training and evaluation beside the predecessor's way",
        "model": {"shape": "Qwen2.5-0.5B", "layers": options.layers, "dtype": "float32"},
        "transcripts": "MELD" if options.meld else "random words of MELD's lengths",
        "batch_size": options.batch,
        "batches": options.batches,
        "evaluated_batches": options.evaluated,
        "settings": SETTINGS.model_dump(mode="json"),
        **found,
        "environment": {
            **environment()["libraries"],
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"ratios": found["ratios"], **found["lengths"]}, indent=1))
    print(f"losses agree within {found['largest_loss_difference']:.2e}; written to {options.out}")


if __name__ == "__main__":
    main()
