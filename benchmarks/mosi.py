"""CMU-MOSI with bc-LSTM's utterance-level features and split: polarity and intensity.

    python benchmarks/mosi.py --data DIR [--text-encoder DIR] [--work DIR]

DIR holds `mosi_bclstm/mosi_bclstm.npz`. With a text encoder (any directory that `egmf-extract
--text hf:DIR` takes) there are rows with the transcript's tokens in place of the archive's text
features. Protocol, and why nothing is chosen on held-out rows: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
from harness import (
    HERE,
    Baseline,
    Benchmark,
    Row,
    arguments,
    command,
    mean_features,
    train,
    variant,
    write_results,
)
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

MANIFEST = HERE / "manifests" / "mosi.yaml"
LINEAR = "logistic regression / ridge"
CONTEXT = ("--context", "10", "--context-after", "10")
PARTS = ("local", "semantic", "global", "gate")
TWO = (1111, 2222)
METRICS = {
    "classification": ("accuracy", "weighted_f1"),
    "regression": ("mae", "corr", "acc7", "acc2_non0", "f1_non0"),
}
COMMON = (
    *("--select", "last", "--epochs", "6", "--set", "dropout=0.3", "--set", "modality_noise=0"),
    *("--set", "decision=median", "--set", "eval_batch_size=256"),
)
NOISE = ("--set", "feature_noise={text: 0.95, visual: 3.0}")
HONEST_TEXT_NOISE = ("--set", "feature_noise={visual: 3.0}")

SINGLE, IN_CONTEXT = "egmf", "egmf-context"
BENCHMARK = Benchmark(
    name="mosi",
    dataset="mosi_light",
    manifest=MANIFEST,
    flags=(*COMMON, *NOISE),
    metrics=METRICS,
    rows=(
        Row(SINGLE, (), against=(LINEAR, "concat")),
        Row(IN_CONTEXT, CONTEXT, against=(SINGLE, LINEAR, "concat-context")),
        Row("concat", variant("concat"), against=(SINGLE,)),
        Row("concat-context", (*CONTEXT, *variant("concat")), against=(IN_CONTEXT,)),
        *(
            Row(f"{name}-context", (*CONTEXT, *variant(name)), TWO, against=(IN_CONTEXT,))
            for name in ("mse-adapter", "mult", "emo-caps")
        ),
        Row(
            "emo-caps-pretrained-context",
            (*CONTEXT, *variant("emo-caps"), "--set", "pretrain_epochs=10"),
            TWO,
            against=("emo-caps-context",),
        ),
        *(
            Row(f"no-{part}-context", (*CONTEXT, "--ablate", part), TWO, against=(IN_CONTEXT,))
            for part in PARTS
        ),
        *(
            Row(f"{name}-only-context", (*CONTEXT, "--modalities", name), TWO, (IN_CONTEXT,))
            for name in ("text", "audio", "visual")
        ),
    ),
)
TOKENS = Benchmark(
    name="mosi_minilm",
    dataset="mosi_tokens",
    manifest=MANIFEST,
    flags=(*COMMON, *HONEST_TEXT_NOISE),
    metrics=METRICS,
    rows=(
        Row(SINGLE, (), against=("concat",)),
        Row(IN_CONTEXT, CONTEXT, against=(SINGLE,)),
        Row("concat", variant("concat")),
    ),
)


def main() -> None:
    """Import, train, and compare with linear models on the same features."""
    parser = arguments("CMU-MOSI: polarity and intensity from bc-LSTM's features.")
    parser.add_argument("--text-encoder", type=Path, help="a model directory")
    options = parser.parse_args()
    archive = options.data / "mosi_bclstm" / "mosi_bclstm.npz"
    cache = options.work / "cache"
    _import(BENCHMARK, archive, options)
    train(BENCHMARK, options)
    write_results(BENCHMARK, [_linear(cache, BENCHMARK.dataset)], options)
    if options.text_encoder and not options.only:
        _import(TOKENS, archive, options, "--modality", "audio", "--modality", "visual")
        command(
            *("egmf-extract", "--dataset", TOKENS.dataset, "--manifest", MANIFEST),
            *("--data-root", options.data, "--cache", cache, "--modalities", "text"),
            *("--text", f"hf:{options.text_encoder}"),
        )
        train(TOKENS, options)
        write_results(TOKENS, [], options)


def _import(benchmark: Benchmark, archive: Path, options: Namespace, *flags: str) -> None:
    command(
        *("egmf-cache", "import", archive, "--dataset", benchmark.dataset, "--manifest", MANIFEST),
        *("--data-root", options.data, "--cache", options.work / "cache", *flags),
    )


def _linear(cache: Path, dataset: str) -> Baseline:
    """Fit logistic and ridge regression on all features, with scikit-learn's own settings."""
    table = pd.read_parquet(cache / dataset / "utterances.parquet")
    parts = dict(iter(table.groupby("split")))
    x = {
        split: np.hstack(
            [
                mean_features(cache, dataset, m, list(rows["id"]))
                for m in ("text", "audio", "visual")
            ]
        )
        for split, rows in parts.items()
    }
    scale = StandardScaler().fit(x["train"])
    train_x, test_x = scale.transform(x["train"]), scale.transform(x["test"])
    labels = LogisticRegression(max_iter=2000).fit(train_x, parts["train"]["label"])
    scores = Ridge().fit(train_x, parts["train"]["score"])
    ids = list(parts["test"]["id"])
    return Baseline(
        LINEAR,
        {
            "classification": dict(zip(ids, labels.predict(test_x), strict=True)),
            "regression": dict(zip(ids, scores.predict(test_x), strict=True)),
        },
    )


def _all_features(cache: Path, dataset: str, ids: list[str]) -> NDArray[np.float64]:
    names = ("text", "audio", "visual")
    return np.hstack([mean_features(cache, dataset, name, ids) for name in names])


if __name__ == "__main__":
    main()
