"""MELD, seven emotions, from MiniLM's tokens of the transcript and eight acoustic features.

    python benchmarks/scores/meld.py --data DIR --text-encoder DIR [--work DIR]

DIR holds `meld/*_sent_emo.csv` and `meld_speechcue/*.csv`; the text encoder is any directory that
`egmf-extract --text hf:DIR` takes. Protocol: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import (
    HERE,
    OTHER_FUSIONS,
    SEEDS,
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
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

DATASET = "meld_light"
MANIFEST = HERE / "manifests" / "meld.yaml"
LOGISTIC = "logistic regression, text + audio"
LOGISTIC_TEXT = "logistic regression, text"
CONTEXT = ("--context", "6", "--context-after", "4")
TWO = SEEDS[:2]

SINGLE, WITH_CONTEXT = "egmf", "egmf-context"

CHOSEN: dict[str, tuple[str, ...]] = {
    "concat": ("--set", "dropout=0.1"),
    "mse-adapter": ("--set", "dropout=0.1", "--set", "modality_noise=0"),
    "mult": ("--set", "dropout=0.1"),
    "emo-caps": ("--set", "dropout=0.1"),
}
"""What each variant's search chose (`search.py`) where it is not EGMF's own setting."""

BENCHMARK = Benchmark(
    name="meld",
    dataset=DATASET,
    manifest=MANIFEST,
    flags=(
        *("--epochs", "8", "--set", "patience=3", "--set", "dropout=0.3"),
        *("--set", "batch_size=64", "--set", "length_window=50", "--set", "eval_batch_size=256"),
    ),
    metrics={"classification": ("weighted_f1", "accuracy", "macro_f1")},
    rows=(
        Row(SINGLE, (), against=(LOGISTIC, LOGISTIC_TEXT)),
        Row(WITH_CONTEXT, CONTEXT, against=(SINGLE,)),
        *(Row(name, variant(name, CHOSEN), against=(SINGLE, LOGISTIC)) for name in OTHER_FUSIONS),
        Row(
            "concat-context",
            (*CONTEXT, *variant("concat", CHOSEN)),
            against=("concat", WITH_CONTEXT),
        ),
        *(
            Row(f"no-{part}", ("--ablate", part), TWO, against=(SINGLE,))
            for part in ("local", "semantic", "global", "gate")
        ),
        Row("text-only", ("--modalities", "text"), against=(SINGLE, LOGISTIC_TEXT)),
    ),
)


def main() -> None:
    """Extract, train, and compare with logistic regression on the same features."""
    parser = arguments("MELD: seven emotions from text and acoustic features.")
    parser.add_argument("--text-encoder", type=Path, required=True, help="a model directory")
    options = parser.parse_args()
    prepare(options)
    train(BENCHMARK, options)
    if options.only is None:
        write_results(BENCHMARK, logistic_baselines(options.work / "cache"), options)


def prepare(options: Namespace) -> None:
    """Extract the text features, import the acoustic ones; what is there is left as it is."""
    cache = options.work / "cache"
    where = ("--dataset", DATASET, "--manifest", MANIFEST, "--data-root", options.data)
    command(
        "egmf-extract", *where, "--cache", cache, "--modalities", "text",
        "--text", f"hf:{options.text_encoder}",
    )  # fmt: skip
    tables = sorted((options.data / "meld_speechcue").glob("*.csv"))
    command("egmf-cache", "import", *tables, *where, "--cache", cache, "--modality", "audio")


def logistic_baselines(cache: Path) -> list[Baseline]:
    """Fit logistic regression on the mean features; its strength is chosen on validation."""
    table = pd.read_parquet(cache / DATASET / "utterances.parquet")
    parts = dict(iter(table.groupby("split")))
    text, both = {}, {}
    for split, rows in parts.items():
        features = [
            mean_features(cache, DATASET, each, list(rows["id"])) for each in ("text", "audio")
        ]
        text[split], both[split] = features[0], np.hstack(features)
    return [
        Baseline(name, {"classification": [_logistic(features, parts)]})
        for name, features in ((LOGISTIC_TEXT, text), (LOGISTIC, both))
    ]


def _logistic(features: dict[str, Any], parts: dict[str, pd.DataFrame]) -> dict[str, str]:
    scale = StandardScaler().fit(features["train"])
    x = {split: scale.transform(each) for split, each in features.items()}
    y = {split: rows["label"] for split, rows in parts.items()}
    models = [
        LogisticRegression(C=strength, max_iter=2000).fit(x["train"], y["train"])
        for strength in (0.001, 0.01, 0.1, 1.0)
    ]
    best = max(
        models, key=lambda each: f1_score(y["valid"], each.predict(x["valid"]), average="weighted")
    )
    return dict(zip(parts["test"]["id"], best.predict(x["test"]), strict=True))


if __name__ == "__main__":
    main()
