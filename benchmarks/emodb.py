"""EmoDB from raw wavs: seven acted emotions, every speaker left out once.

    python benchmarks/emodb.py --data DIR [--work DIR] [--choose]

DIR holds `emodb/wav/*.wav` and `emodb/labels_from_filename.csv`. `--choose` repeats the search for
settings, in which no speaker has a say about the settings that judge them: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
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
    publish,
    run_scores,
    score_rows,
    train,
)
from sklearn.metrics import recall_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from extract.features import FeatureSet, list_feature_sets

DATASET = "emodb_folds"
MANIFEST = HERE / "manifests" / "emodb.yaml"
FUNCTIONALS, FRAMES, LARGE = (
    f"opensmile:{name}" for name in ("eGeMAPSv02", "eGeMAPSv02/lld", "ComParE_2016")
)
SVMS = {FUNCTIONALS: "RBF SVM, eGeMAPS", LARGE: "RBF SVM, ComParE"}
HALVES = {
    "emodb_first": ("03", "08", "09", "10", "11"),
    "emodb_second": ("12", "13", "14", "15", "16"),
}
STRENGTHS = {
    "weak": ("--set", "dropout=0.1"),
    "medium": ("--set", "dropout=0.3", "--set", "feature_noise={audio: 0.5, frames: 0.5}"),
    "strong": ("--set", "dropout=0.5", "--set", "feature_noise={audio: 1.0, frames: 1.0}"),
}
"""How much training is made harder, the one thing that is chosen."""

CHOSEN = "medium"
COMMON = (
    *("--folds", "speaker", "--select", "last", "--epochs", "15"),
    *("--set", "class_weights=balanced", "--set", "pool={frames: 4}"),
    *("--set", "eval_batch_size=256"),
)
ALONE = ("--modalities", "audio")
THREE, TWO = SEEDS[:3], SEEDS[:2]

BENCHMARK = Benchmark(
    name="emodb",
    dataset=DATASET,
    manifest=MANIFEST,
    flags=(*COMMON, "--set", "batch_size=64", *STRENGTHS[CHOSEN]),
    rows=(
        Row("functionals", (*ALONE, "--audio", FUNCTIONALS), THREE, (SVMS[FUNCTIONALS],)),
        Row(
            "functionals-frames",
            ("--modalities", "audio,frames", "--audio", FUNCTIONALS),
            TWO,
            (SVMS[FUNCTIONALS], "functionals"),
        ),
        Row("compare", (*ALONE, "--audio", LARGE), THREE, tuple(SVMS.values())),
    ),
    metrics={"classification": ("uar", "accuracy", "weighted_f1")},
)


def main() -> None:
    """Extract, train every fold, and compare with support vector machines on the same features."""
    parser = arguments("EmoDB: seven emotions from raw audio, speakers left out.")
    parser.add_argument("--choose", action="store_true", help="repeat the search for settings")
    options = parser.parse_args()
    prepare(options)
    if options.choose:
        choose(options)
        return
    train(BENCHMARK, options)
    table = pd.read_parquet(options.work / "cache" / DATASET / "utterances.parquet")
    baselines = [svm(table, feature_set(options, spec), name) for spec, name in SVMS.items()]
    found, text = score_rows(BENCHMARK, baselines, options)
    speakers = by_speaker(table.set_index("id"), baselines, options)
    text += ["## Unweighted average recall by speaker", "", *_markdown(speakers), ""]
    publish(BENCHMARK.name, {**found, "by_speaker": speakers}, text)


def prepare(options: Namespace) -> None:
    """Extract three openSMILE sets; the frames are a second modality beside the functionals."""
    for spec in (FUNCTIONALS, FRAMES, LARGE):
        command("egmf-extract", *_where(DATASET, options), "--modalities", "audio", "--audio", spec)
    _import(DATASET, FRAMES, "frames", options)


def choose(options: Namespace) -> None:
    """Score each strength on each half of the speakers, leaving one out, and print what came."""
    wavs = pd.read_csv(options.data / "emodb" / "labels_from_filename.csv", dtype=str)
    table = pd.DataFrame(
        {"id": wavs["file"], "split": "train", "label": wavs["emotion"], "speaker": wavs["speaker"]}
    )
    for half, speakers in HALVES.items():
        rows = table[table["speaker"].isin(speakers)]
        rows.to_csv(options.work / f"{half}.csv", index=False)
        _import(half, FUNCTIONALS, "audio", options)
        # Half the rows in half the batches: as many steps as later.
        benchmark = Benchmark(
            name=half,
            dataset=half,
            manifest=MANIFEST,
            flags=(*COMMON, "--set", "batch_size=32"),
            rows=tuple(Row(name, flags, SEEDS[:1]) for name, flags in STRENGTHS.items()),
            metrics={"classification": ("uar",)},
        )
        train(benchmark, options)
        print("\n".join(score_rows(benchmark, [], options)[1]))


def svm(table: pd.DataFrame, features: FeatureSet, name: str) -> Baseline:
    """Predict each speaker by an RBF SVM of the others, scikit-learn's C and gamma."""
    reader = features.reader()
    x = np.stack([reader.value(each)[0] for each in table["id"]]).astype(np.float64)
    model = make_pipeline(StandardScaler(), SVC())
    found = cross_val_predict(
        model, x, table["label"], groups=table["speaker"], cv=LeaveOneGroupOut()
    )
    return Baseline(name, {"classification": dict(zip(table["id"], found, strict=True))})


def by_speaker(
    table: pd.DataFrame, baselines: Iterable[Baseline], options: Namespace
) -> list[dict[str, Any]]:
    """Return each system's unweighted average recall for each speaker, the mean over seeds."""
    systems = {
        each.name: [[each.predictions["classification"][name] for name in table.index]]
        for each in baselines
    }
    for row in BENCHMARK.rows:
        scores = run_scores(BENCHMARK, row, "classification", options)
        if scores is not None:
            place = {name: column for column, name in enumerate(scores.ids)}
            order = [place[name] for name in table.index]
            systems[row.name] = scores.predictions[:, order].tolist()
    rows = []
    for name, seeds in systems.items():
        cells: dict[str, Any] = {"row": name}
        for speaker, own in table.reset_index().groupby("speaker"):
            labels = sorted(set(own["label"]))
            recalls = [
                recall_score(
                    own["label"],
                    [seed[place] for place in own.index],
                    labels=labels,
                    average="macro",
                )
                for seed in seeds
            ]
            cells[str(speaker)] = float(np.mean(recalls))
        rows.append(cells)
    return rows


def feature_set(options: Namespace, spec: str) -> FeatureSet:
    """Return the corpus's feature set of an encoder."""
    found = list_feature_sets(options.work / "cache", DATASET)
    (one,) = [each for each in found if each.encoder == spec]
    return one


def _import(dataset: str, spec: str, modality: str, options: Namespace) -> None:
    """Give a dataset features that the corpus has in the cache, by a modality's name."""
    shards = sorted(feature_set(options, spec).folder.glob("*.h5"))
    command("egmf-cache", "import", *shards, *_where(dataset, options), "--modality", modality)


def _where(dataset: str, options: Namespace) -> tuple[str | Path, ...]:
    root = options.data if dataset == DATASET else options.work
    return (
        *("--dataset", dataset, "--manifest", MANIFEST),
        *("--data-root", root, "--cache", options.work / "cache"),
    )


def _markdown(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{100 * row[each]:.1f}" for each in names[1:]]
        lines.append(f"| {row['row']} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
