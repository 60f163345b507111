"""CH-SIMS v2 and CMU-MOSI from transcripts, in Chinese and in English, on their official splits.

    python benchmarks/scores/text.py --data DIR --text-encoder DIR --chinese-vectors DIR [--work W]

`--data` holds `labels/{simsv2,cmumosi}/`; `--text-encoder` is any English encoder that
`egmf-extract --text hf:DIR` takes; `--chinese-vectors` holds `words.vector` and `vocab.txt` of the
package synonyms 3.10.2, and `w2v_model_wiki_char.vec` of Macropodus 0.0.7. What is read beside
tokens, and how settings were chosen: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import (
    HERE,
    SEEDS,
    Baseline,
    Benchmark,
    Row,
    arguments,
    command,
    mean_features,
    publish,
    score_rows,
    train,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from text_material import joined_table, write_encoder, write_ngrams

MANIFEST = HERE / "manifests" / "text.yaml"
CORPORA = {"simsv2": "simsv2", "mosi": "cmumosi"}
"""How the manifest calls each corpus, and how the files do."""

LANGUAGES = {"zh": "chinese", "en": "english"}
RIDGE, RIDGE_SAME = "ridge, character n-grams", "ridge, the same features"
RIDGES = (RIDGE, RIDGE_SAME)
SETS = ("text", "ngrams")
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
EGMF = "egmf"
TWO, THREE = SEEDS[:2], SEEDS[:3]
NGRAM_DIM = 300
EPOCHS = {"simsv2": "6", "mosi": "12"}  # about as many steps, since MOSI is half as large
FLAGS = (
    *("--set", "dropout=0.3", "--set", "fusion_lr=1e-3"),
    *("--set", "batch_size=64", "--set", "eval_batch_size=256", "--set", "length_window=20"),
)
METRICS = {
    "sims": ("mae", "corr", "acc2", "acc2_weak", "acc3", "acc5", "f1", "r2"),
    "mosi": ("mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7"),
}


def benchmark_of(corpus: str, language: str) -> Benchmark:
    """Return the rows of one corpus in one language."""
    (other,) = (each for each in CORPORA if each != corpus)
    together = "+".join(sorted(f"{each}_{language}" for each in CORPORA))
    protocol = "sims" if corpus == "simsv2" else "mosi"
    seeds = SEEDS if (corpus, language) == ("simsv2", "zh") else THREE
    return Benchmark(
        name=f"{corpus}_{language}",
        dataset=f"{corpus}_{language}",
        manifest=MANIFEST,
        flags=("--epochs", EPOCHS[corpus], *FLAGS),
        rows=(
            Row(EGMF, (), seeds, against=(*RIDGES, "egmf-tokens")),
            Row("egmf-tokens", ("--modalities", "text"), TWO, against=(*RIDGES, EGMF)),
            Row(
                "trained on both corpora",
                (),
                TWO,
                against=(*RIDGES, EGMF),
                folder=f"{corpus}_{language}/{EGMF}-joint-{together}",
            ),
            Row(
                f"trained on {other}",
                (),
                THREE,
                against=(*RIDGES, EGMF),
                folder=f"{other}_{language}/{EGMF}",
                file=f"transfer-{corpus}_{language}.csv",
            ),
        ),
        metrics={"regression": METRICS[protocol]},
        protocol=protocol,
        compared=2,
    )


BENCHMARKS = tuple(benchmark_of(corpus, language) for language in LANGUAGES for corpus in CORPORA)


def main() -> None:
    """Prepare, train alone and together, and compare with ridge regression."""
    parser = arguments("CH-SIMS v2 and CMU-MOSI from transcripts in two languages.")
    parser.add_argument("--text-encoder", type=Path, required=True, help="an English encoder")
    parser.add_argument("--chinese-vectors", type=Path, required=True, help="folder of vectors")
    options = parser.parse_args()
    prepare(options)
    for benchmark in BENCHMARKS:
        train(benchmark, options)
    for language in LANGUAGES:
        train_together(language, options)
    found: dict[str, Any] = {}
    text = []
    for benchmark in BENCHMARKS:
        scores, lines = score_rows(benchmark, ridge_baselines(benchmark, options), options)
        found[benchmark.name] = scores["regression"]
        text += [f"## {benchmark.name}", *lines[1:]]
    if options.only is None:
        publish("text", found, text)


def prepare(options: Namespace) -> None:
    """Write tables, encoder and n-grams, then extract and import; what is there is left."""
    options.work.mkdir(parents=True, exist_ok=True)
    labels = options.data / "labels"
    tables = {
        name: joined_table(
            labels / name / "label.csv", labels / name / "transcription-engchi-polish.csv"
        )
        for name in CORPORA.values()
    }
    for name, table in tables.items():
        table.to_csv(options.work / f"{name}.csv", index=False)
    encoders = {"zh": options.work / "zh-vectors", "en": options.text_encoder}
    vectors = options.chinese_vectors
    if not encoders["zh"].is_dir():
        write_encoder(
            vectors / "words.vector",
            vectors / "vocab.txt",
            vectors / "w2v_model_wiki_char.vec",
            encoders["zh"],
        )
    cache = ("--cache", options.work / "cache", "--data-root", options.work)
    for language, column in LANGUAGES.items():
        ngrams = options.work / f"ngrams-{language}.h5"
        if not ngrams.is_file():
            write_ngrams(list(tables.values()), column, NGRAM_DIM, ngrams)
        for corpus in CORPORA:
            where = ("--dataset", f"{corpus}_{language}", "--manifest", MANIFEST, *cache)
            command(
                *("egmf-extract", *where, "--modalities", "text"),
                *("--text", f"hf:{encoders[language]}"),
            )
            command("egmf-cache", "import", ngrams, *where, "--modality", "ngrams")


def train_together(language: str, options: Namespace) -> None:
    """Train one model on both corpora; its predictions lie with each corpus's own runs."""
    if options.only:
        return
    seeds = [flag for seed in TWO[: options.seeds] for flag in ("--seed", str(seed))]
    command(
        *("egmf-train", "--from-cache", "--resume", "--joint", "--manifest", MANIFEST),
        *(flag for corpus in CORPORA for flag in ("--dataset", f"{corpus}_{language}")),
        *("--cache", options.work / "cache", "--runs", options.work / "runs"),
        *("--preset", "tiny", "--experiment", EGMF, *seeds),
        *("--epochs", EPOCHS["simsv2"], *FLAGS),
    )


def ridge_baselines(benchmark: Benchmark, options: Namespace) -> list[Baseline]:
    """Fit ridge regression on character n-grams, and on the means of what EGMF reads."""
    cache = options.work / "cache"
    table = pd.read_parquet(cache / benchmark.dataset / "utterances.parquet")
    parts = dict(iter(table.groupby("split")))
    limit = 1.0 if benchmark.protocol == "sims" else 3.0
    counted = []
    for longest in (3, 4):
        counts = TfidfVectorizer(analyzer="char", ngram_range=(1, longest), sublinear_tf=True)
        counts.fit(parts["train"]["text"])
        counted.append({split: counts.transform(rows["text"]) for split, rows in parts.items()})
    means = {
        split: np.hstack(
            [mean_features(cache, benchmark.dataset, each, list(rows["id"])) for each in SETS]
        )
        for split, rows in parts.items()
    }
    scale = StandardScaler().fit(means["train"])
    scaled = {split: scale.transform(each) for split, each in means.items()}
    return [
        ridge(RIDGE, counted, STRENGTHS, parts, limit),
        ridge(RIDGE_SAME, [scaled], [1000 * each for each in STRENGTHS], parts, limit),
    ]


def ridge(
    name: str,
    inputs: Sequence[Mapping[str, Any]],
    strengths: Sequence[float],
    parts: Mapping[str, pd.DataFrame],
    limit: float,
) -> Baseline:
    """Fit ridge regression; which of the inputs and which strength by validation MAE."""
    fitted = [
        (each, Ridge(alpha=strength).fit(each["train"], parts["train"]["score"]))
        for each in inputs
        for strength in strengths
    ]
    x, model = min(
        fitted,
        key=lambda one: np.abs(one[1].predict(one[0]["valid"]) - parts["valid"]["score"]).mean(),
    )
    predicted = model.predict(x["test"]).clip(-limit, limit)
    return Baseline(name, {"regression": [dict(zip(parts["test"]["id"], predicted, strict=True))]})


if __name__ == "__main__":
    main()
