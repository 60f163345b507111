"""CMU-MOSI with bc-LSTM's utterance-level features and split: polarity and intensity.

    python benchmarks/scores/mosi.py --data DIR --text-encoder DIR [--work DIR]

DIR holds `mosi_bclstm/mosi_bclstm.npz`; the text encoder, any directory that `egmf-extract --text
hf:DIR` takes, gives the transcript's tokens for rows of their own. Protocol, and why nothing is
chosen on held-out rows: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from mosi_baselines import (
    EPOCHS,
    EPOCHS_AGAIN,
    STRENGTHS,
    Archive,
    Floats,
    Rows,
    bi_lstm,
    linear,
    read_archive,
    rows_of,
)

MANIFEST = HERE / "manifests" / "mosi.yaml"
LINEAR, LSTM = "logistic regression / ridge", "bi-LSTM in context"
LSTM_AGAIN = "bi-LSTM in context, 5 epochs"
TOKENS = ", means of MiniLM's tokens"
LABELS = ("negative", "positive")
CONTEXT = ("--context", "10", "--context-after", "10")
TWO = SEEDS[:2]
PARTS = ("local", "semantic", "global", "gate")
METRICS = {
    "classification": ("accuracy", "weighted_f1"),
    "regression": ("mae", "corr", "acc7", "acc2_non0", "f1_non0"),
}
COMMON = (
    *("--select", "last", "--epochs", "11", "--set", "fusion_lr=0.002", "--set", "dropout=0.5"),
    *("--set", "modality_noise=0", "--set", "decision=median", "--set", "eval_batch_size=256"),
)
THREE = ("--modalities", "text,audio,visual", "--set", "feature_noise={audio: 3.0, visual: 3.0}")
FOUR = ("--modalities", "text,audio,visual,tokens", *THREE[2:])
MINILM = ("--modalities", "audio,visual,tokens", *THREE[2:])
THIRD = ("--epochs", "4", "--set", "fusion_lr=0.001", "--set", "dropout=0.3")
SECOND = ("--epochs", "6", "--set", "fusion_lr=0.002", "--set", "dropout=0.3")
FIRST = (
    *("--modalities", "text,audio,visual", "--set", "feature_noise={text: 0.95, visual: 3.0}"),
    *SECOND,
)

SINGLE, IN_CONTEXT = "egmf", "egmf-context"
WITH_TOKENS, TOKENS_AS_TEXT = "egmf-and-tokens-context", "egmf-tokens-as-text-context"

CHOSEN: dict[str, tuple[str, ...]] = {
    "concat": ("--set", "dropout=0.3"),
    "mse-adapter": ("--set", "fusion_lr=0.001", "--set", "dropout=0.3"),
    "mult": ("--set", "dropout=0.3"),
    "emo-caps": ("--set", "dropout=0.3"),
}
"""What each variant's search chose (`search.py`) where it is not EGMF's own setting.

Epochs are fewer than in the search, where a third of the training part was held out.
"""

BENCHMARK = Benchmark(
    name="mosi",
    dataset="mosi_light",
    manifest=MANIFEST,
    flags=COMMON,
    metrics=METRICS,
    rows=(
        Row(SINGLE, THREE, against=(LINEAR,)),
        Row(IN_CONTEXT, (*THREE, *CONTEXT), against=(SINGLE, LINEAR, LSTM, LSTM_AGAIN)),
        Row("first-protocol-context", (*FIRST, *CONTEXT), against=(IN_CONTEXT,)),
        Row("second-protocol-context", (*THREE, *CONTEXT, *SECOND), against=(IN_CONTEXT,)),
        Row("third-protocol-context", (*THREE, *CONTEXT, *THIRD), against=(IN_CONTEXT,)),
        Row("third-protocol-and-tokens-context", (*FOUR, *CONTEXT, *THIRD), against=(WITH_TOKENS,)),
        Row(
            "third-protocol-tokens-as-text-context",
            (*MINILM, *CONTEXT, *THIRD),
            against=(TOKENS_AS_TEXT, LINEAR + TOKENS, LSTM + TOKENS),
        ),
        Row(WITH_TOKENS, (*FOUR, *CONTEXT), against=(IN_CONTEXT, LINEAR + TOKENS, LSTM + TOKENS)),
        Row(
            TOKENS_AS_TEXT,
            (*MINILM, *CONTEXT),
            against=(IN_CONTEXT, LINEAR + TOKENS, LSTM + TOKENS),
        ),
        Row("concat", (*THREE, *variant("concat", CHOSEN)), against=(SINGLE,)),
        *(
            Row(
                f"{name}-context",
                (*THREE, *CONTEXT, *variant(name, CHOSEN)),
                SEEDS if name == "concat" else TWO,
                (IN_CONTEXT,),
            )
            for name in OTHER_FUSIONS
        ),
        Row(
            "concat-and-tokens-context",
            (*FOUR, *CONTEXT, *variant("concat", CHOSEN)),
            against=(WITH_TOKENS,),
        ),
        Row(
            "concat-tokens-as-text-context",
            (*MINILM, *CONTEXT, *variant("concat", CHOSEN)),
            against=(TOKENS_AS_TEXT,),
        ),
        Row(
            "emo-caps-pretrained-context",
            (*THREE, *CONTEXT, *variant("emo-caps", CHOSEN), "--set", "pretrain_epochs=10"),
            TWO,
            against=("emo-caps-context",),
        ),
        *(
            Row(f"no-{part}-context", (*THREE, *CONTEXT, "--ablate", part), TWO, (IN_CONTEXT,))
            for part in PARTS
        ),
        Row("text-only-context", ("--modalities", "text", *CONTEXT), TWO, (IN_CONTEXT,)),
    ),
)


def main() -> None:
    """Import, train, and compare with linear models on the same features."""
    parser = arguments("CMU-MOSI: polarity and intensity from bc-LSTM's features.")
    parser.add_argument("--text-encoder", type=Path, required=True, help="a model directory")
    options = parser.parse_args()
    prepare(options)
    train(BENCHMARK, options)
    if options.only is None:
        write_results(BENCHMARK, baselines(options.data, options.work / "cache"), options)


def prepare(options: Namespace) -> None:
    """Import the archive; encode the transcripts, and import their tokens as a fourth modality."""
    cache = options.work / "cache"
    where = ("--manifest", MANIFEST, "--data-root", options.data, "--cache", cache)
    archive = options.data / "mosi_bclstm" / "mosi_bclstm.npz"
    command("egmf-cache", "import", archive, "--dataset", BENCHMARK.dataset, *where)
    command(
        *("egmf-extract", "--dataset", "mosi_tokens", *where, "--modalities", "text"),
        *("--text", f"hf:{options.text_encoder}"),
    )
    shards = sorted((cache / "mosi_tokens" / "text").glob("*/*.h5"))
    command(
        *("egmf-cache", "import", *shards, "--dataset", BENCHMARK.dataset, *where),
        *("--modality", "tokens", "--name", "minilm"),
    )


def baselines(data: Path, cache: Path) -> list[Baseline]:
    """Train linear models and a bidirectional LSTM on the same features; see `mosi_baselines`."""
    archive = read_archive(data)
    train, test = rows_of(archive, "train"), rows_of(archive, "test")
    tokens = [
        replace(rows, x=mean_features(cache, BENCHMARK.dataset, "tokens", names_of(archive, part)))
        for part, rows in (("train", train), ("test", test))
    ]
    return [
        *on(train, test, names_of(archive, "test"), ""),
        *on(*tokens, names_of(archive, "test"), TOKENS),
    ]


def names_of(archive: Archive, part: str) -> list[str]:
    """Return the ids of a part's utterances."""
    return [str(each) for each in archive[f"{part}_id"]]


def on(train: Rows, test: Rows, ids: list[str], which: str) -> list[Baseline]:
    """Train all baselines on some features; `which` ends their names."""

    def named(task: str, found: Floats) -> dict[str, Any]:
        if task == "regression":
            return dict(zip(ids, found, strict=True))
        return {each: LABELS[int(number)] for each, number in zip(ids, found, strict=True)}

    numbers = {task: [named(task, linear(train, test, task, STRENGTHS[task]))] for task in METRICS}
    lstms = {LSTM: EPOCHS} if which else {LSTM: EPOCHS, LSTM_AGAIN: EPOCHS_AGAIN}
    return [
        Baseline(LINEAR + which, numbers),
        *(
            Baseline(
                name + which,
                {
                    task: [named(task, bi_lstm(train, test, task, each[task], s)) for s in SEEDS]
                    for task in METRICS
                },
            )
            for name, each in lstms.items()
        ),
    ]


if __name__ == "__main__":
    main()
