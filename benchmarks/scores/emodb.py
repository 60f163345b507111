"""EmoDB from raw wavs: seven acted emotions, every speaker left out once.

    python benchmarks/scores/emodb.py --data DIR [--work DIR]

DIR holds `emodb/wav/*.wav` and `emodb/labels_from_filename.csv`. Protocol: benchmarks/README.md.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
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
    markdown,
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
TITLES = {FUNCTIONALS: "eGeMAPS", LARGE: "ComParE"}


@dataclass(frozen=True)
class Svm:
    """A support vector machine on a feature set; balanced classes weigh as in EGMF's training."""

    spec: str
    kernel: str
    balanced: bool

    @property
    def name(self) -> str:
        """How tables call it."""
        weights = ", balanced" if self.balanced else ""
        kernel = "RBF" if self.kernel == "rbf" else self.kernel
        return f"{kernel} SVM, {TITLES[self.spec]}{weights}"


SVMS = tuple(
    Svm(spec, kernel, balanced)
    for spec in TITLES
    for kernel, balanced in (("rbf", False), ("rbf", True), ("linear", True))
)


def against(spec: str) -> tuple[str, ...]:
    """Return the baselines on a feature set."""
    return tuple(each.name for each in SVMS if each.spec == spec)


COMMON = (
    *("--folds", "speaker", "--select", "last", "--epochs", "15"),
    *("--set", "class_weights=balanced", "--set", "dropout=0.3"),
    *("--set", "batch_size=64", "--set", "eval_batch_size=256"),
)
ALONE = ("--modalities", "audio", "--set", "feature_noise={audio: 0.5}")
WITH_FRAMES = (
    *("--modalities", "audio,frames", "--set", "feature_noise={audio: 0.5, frames: 0.5}"),
    *("--set", "pool={frames: 4}"),
)
THREE = SEEDS[:3]

BENCHMARK = Benchmark(
    name="emodb",
    dataset=DATASET,
    manifest=MANIFEST,
    flags=COMMON,
    rows=(
        Row("functionals", (*ALONE, "--audio", FUNCTIONALS), THREE, against(FUNCTIONALS)),
        Row(
            "functionals-frames",
            (*WITH_FRAMES, "--audio", FUNCTIONALS),
            THREE,
            (*against(FUNCTIONALS), "functionals"),
        ),
        Row("compare", (*ALONE, "--audio", LARGE), THREE, against(LARGE)),
    ),
    metrics={"classification": ("uar", "accuracy", "weighted_f1")},
)


def main() -> None:
    """Extract, train every fold, and compare with support vector machines on the same features."""
    parser = arguments("EmoDB: seven emotions from raw audio, speakers left out.")
    options = parser.parse_args()
    prepare(options)
    train(BENCHMARK, options)
    table = pd.read_parquet(options.work / "cache" / DATASET / "utterances.parquet")
    baselines = [predict(each, table, feature_set(options, each.spec)) for each in SVMS]
    found, text = score_rows(BENCHMARK, baselines, options)
    speakers = by_speaker(table.set_index("id"), baselines, options)
    shown = pd.DataFrame(speakers).map(
        lambda cell: f"{100 * cell:.1f}" if isinstance(cell, float) else cell
    )
    text += ["## Unweighted average recall by speaker", "", markdown(shown), ""]
    publish(BENCHMARK.name, {**found, "by_speaker": speakers}, text)


def prepare(options: Namespace) -> None:
    """Extract three openSMILE sets; the frames are a second modality beside the functionals."""
    where = (
        *("--dataset", DATASET, "--manifest", MANIFEST),
        *("--data-root", options.data, "--cache", options.work / "cache"),
    )
    for spec in (FUNCTIONALS, FRAMES, LARGE):
        command("egmf-extract", *where, "--modalities", "audio", "--audio", spec)
    shards = sorted(feature_set(options, FRAMES).folder.glob("*.h5"))
    command(
        *("egmf-cache", "import"),
        *shards,
        *where,
        *("--modality", "frames", "--name", "eGeMAPSv02-lld"),
    )


def predict(svm: Svm, table: pd.DataFrame, features: FeatureSet) -> Baseline:
    """Predict each speaker by an SVM of the others, scikit-learn's C and gamma."""
    reader = features.reader()
    x = np.stack([reader.value(each)[0] for each in table["id"]]).astype(np.float64)
    weights = "balanced" if svm.balanced else None
    model = make_pipeline(StandardScaler(), SVC(kernel=svm.kernel, class_weight=weights))
    found = cross_val_predict(
        model, x, table["label"], groups=table["speaker"], cv=LeaveOneGroupOut()
    )
    return Baseline(svm.name, {"classification": [dict(zip(table["id"], found, strict=True))]})


def by_speaker(
    table: pd.DataFrame, baselines: Iterable[Baseline], options: Namespace
) -> list[dict[str, Any]]:
    """Return each system's unweighted average recall for each speaker, the mean over seeds."""
    systems = {
        each.name: [
            [seed[name] for name in table.index] for seed in each.predictions["classification"]
        ]
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


if __name__ == "__main__":
    main()
