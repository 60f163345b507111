"""What stands apart from a dataset's own test split: folds, transfer, variants without a gate."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from pipeline.report.build import build_report
from pipeline.report.corpus import Corpus
from pipeline.report.experiments import lead_experiment
from pipeline.report.folds import by_folds, resampler_of
from tests.helpers_runs import (
    MELD,
    edit_result,
    emotion_run,
    experiments_of,
    table,
    write_demo,
    write_run,
)

FOLDS = 4


def folded_run(runs, experiment="folds", column="speaker", **changes):
    """Write a run as `--folds` leaves it: pooled predictions with their fold, scores of each."""
    folder = emotion_run(runs, experiment, **changes)
    path = folder / "predictions-test.csv"
    rows = pd.read_csv(path)
    rows["fold"] = np.arange(len(rows)) % FOLDS
    rows.to_csv(path, index=False)
    (folder / "config.yaml").write_text(f"seed: 1\nfolds: {column}\n", encoding="utf-8")
    folds = []
    for number, part in rows.groupby("fold"):
        uar = recall_score(part["truth"], part["prediction"], average="macro", zero_division=0)
        scores = {"n_classification": len(part), "uar": uar, "accuracy": uar, "macro_f1": uar}
        folds.append({"number": number, "test": f"speaker {number}", "weighted_f1": 0.5, **scores})
    edit_result(folder, lambda result: result.update(folds=folds, select="last"))
    return folder


# Folds


def test_folds_stand_apart_and_are_never_ranked_among_the_release(tmp_path):
    emotion_run(tmp_path / "runs", "egmf", skill=0.5)
    folded_run(tmp_path / "runs", "folds", skill=0.99)
    report = build_report(tmp_path / "runs", tmp_path / "out")
    ranked = [row["experiment"] for row in table(tmp_path / "out", "meld-classification")]
    assert ranked == ["egmf", "Majority class"]
    pooled = table(tmp_path / "out", "meld-folds-speaker-classification")
    assert [row["experiment"] for row in pooled] == ["folds", "Majority class"]
    assert pooled[0]["setup"] == "text + audio + visual; last epoch"
    (card,) = report.sections[0].cards
    assert card.details[0].startswith("egmf:")
    part = next(each for each in report.sections[0].parts if each.title == "Leave one speaker out")
    assert part.tables[0].title.endswith("4 folds, each speaker the test split once, pooled")
    assert [drawing.name for drawing in part.drawings] == ["d1-folds-speaker-uar"]


def test_mean_over_folds_by_hand(tmp_path):
    folded_run(tmp_path / "runs")
    build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    scores = [fold["uar"] for fold in experiments_of(tmp_path / "runs")[0].result.folds]
    assert len(scores) == FOLDS
    (row,) = table(tmp_path / "out", "meld-folds-speaker-classification-mean")
    assert float(row["uar"]) == pytest.approx(np.mean(scores))
    assert float(row["uar_sd"]) == pytest.approx(np.std(scores, ddof=1))
    each = table(tmp_path / "out", "meld-folds-speaker-classification-each")
    assert [row["speaker"] for row in each] == [f"speaker {number}" for number in range(FOLDS)]
    assert [float(row["uar"]) for row in each] == pytest.approx(scores)
    assert {row["n"] for row in each} == {"15"}


def test_the_recall_counts_where_folds_are_speakers(tmp_path):
    folded_run(tmp_path / "runs")
    report = build_report(tmp_path / "runs", tmp_path / "out", ("html", "csv"))
    (experiment,) = experiments_of(tmp_path / "runs")
    assert experiment.headline("classification").key == "uar"
    assert [card.title for card in report.sections[0].cards] == ["UAR, %"]
    folded_run(tmp_path / "other", column="language")
    (experiment,) = experiments_of(tmp_path / "other")
    assert experiment.headline("classification").key == "weighted_f1"


def test_speakers_are_drawn_whole_where_they_were_folds(tmp_path):
    folded_run(tmp_path, "spoken")
    folded_run(tmp_path, "languages", column="language")
    protocols = by_folds(experiments_of(tmp_path))
    methods = {
        column: resampler_of(members, Corpus()).method for column, members in protocols.items()
    }
    assert "over whole speakers" in methods["speaker"]
    assert "over utterances" in methods["language"]


def test_a_column_that_was_not_recorded_is_a_fold(tmp_path):
    folder = folded_run(tmp_path)
    (folder / "config.yaml").write_text("seed: 1\nfolds: [<script>]\n", encoding="utf-8")
    assert experiments_of(tmp_path)[0].folds == "fold"
    (folder / "config.yaml").write_text("a: [", encoding="utf-8")
    assert experiments_of(tmp_path)[0].folds == "fold"


def test_an_unfinished_run_says_how_far_it_came(tmp_path):
    (emotion_run(tmp_path / "runs", seed=2) / "result.json").unlink()
    halt = emotion_run(tmp_path / "runs", "folds", seed=3)
    (halt / "fold-0").mkdir()
    (halt / "result.json").rename(halt / "fold-0" / "result.json")
    (halt / "fold-1").mkdir()
    emotion_run(tmp_path / "runs")
    report = build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    reasons = {run.name: run.reason for run in report.skipped}
    assert reasons["meld/egmf/seed-2"].endswith("(8 epochs in its log)")
    assert reasons["meld/folds/seed-3"].endswith("(1 of the 2 folds that it began are finished)")


# Transfer


def transfer(**changes):
    record = {
        "tasks": ["classification"],
        "labels": ["neutral", "joy"],
        "mapped": {"happiness": "joy"},
        "rows": {"classification": {"scored": 40, "labelled": 50}},
        "rescaled": False,
        "n_classification": 40,
        "accuracy": 0.4,
        "weighted_f1": 0.25,
    }
    return record | changes


def test_the_transfer_matrix_has_the_own_test_on_its_diagonal(tmp_path):
    for seed, score in ((1, 0.2), (2, 0.3)):
        found = {"cherma": transfer(weighted_f1=score), "mosi": {"left_out": "no audio features"}}
        emotion_run(tmp_path / "runs", seed=seed, transfer=found)
    write_run(
        tmp_path / "runs", "cherma", task=("classification",), protocol="emotion", rows=60,
        labels=MELD, transfer={"meld": transfer(weighted_f1=0.35, mapped={})},
    )  # fmt: skip
    build_report(tmp_path / "runs", tmp_path / "out")
    rows = table(tmp_path / "out", "transfer-classification-weighted_f1")
    by_row = {row["trained_on"]: row for row in rows}
    assert [row["trained_on"] for row in rows] == ["cherma", "meld", "Majority class"]
    assert float(by_row["meld"]["cherma"]) == pytest.approx(0.25)
    assert float(by_row["meld"]["cherma_sd"]) == pytest.approx(math.sqrt(0.005))
    assert float(by_row["cherma"]["meld"]) == pytest.approx(0.35)
    own = table(tmp_path / "out", "meld-classification")[0]["weighted_f1"]
    assert by_row["meld"]["meld"] == own
    trivial = table(tmp_path / "out", "cherma-classification")[-1]["weighted_f1"]
    assert by_row["Majority class"]["cherma"] == trivial
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "meld → cherma: 40 of 50 labelled utterances, 2 of 7 labels (neutral, joy; " in text
    assert "happiness as joy" in text
    assert "meld → mosi: no audio features." in text


def test_regression_transfers_by_the_tested_corpus_s_protocol(tmp_path):
    scores = {"n_regression": 9, "mae": 0.4, "corr": 0.5, "acc2": 0.7, "rescaled": True}
    write_run(
        tmp_path / "runs", "mosei", task=("regression",), rows=60,
        transfer={"simsv2": transfer(labels=[], **scores)},
    )  # fmt: skip
    build_report(tmp_path / "runs", tmp_path / "out", ("csv", "md"))
    (row, trivial) = table(tmp_path / "out", "transfer-regression-mae")
    assert float(row["simsv2"]) == 0.4
    assert (trivial["mosei"] != "", trivial["simsv2"]) == (True, "")
    (row,) = table(tmp_path / "out", "transfer-regression-acc2")
    assert set(row) == {"trained_on", "experiment", "simsv2", "simsv2_sd", "seeds"}
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "9 of 9 labelled utterances, predictions rescaled to its range" in text


def test_without_transfer_there_is_no_matrix(tmp_path):
    emotion_run(tmp_path / "runs", transfer={"mosi": {"left_out": "no text features"}})
    build_report(tmp_path / "runs", tmp_path / "out")
    assert not list((tmp_path / "out" / "tables").glob("transfer-*"))


# Variants of the fusion


def write_variants(runs):
    """Write EGMF, another fusion without any gate, and training on one language alone."""
    emotion_run(runs, "egmf", skill=0.8)
    for name, changes in {
        "concat": {"fusion": "concat", "skill": 0.3},
        "on-en": {"train_languages": ["en"], "skill": 0.3},
    }.items():
        folder = emotion_run(runs, name, **changes)
        if "fusion" in changes:
            path = folder / "predictions-test.csv"
            rows = pd.read_csv(path)
            rows = rows.drop(columns=[each for each in rows if each.startswith("gate_")])
            rows.to_csv(path, index=False)


def test_the_fusion_is_a_column_and_every_difference_is_tested(tmp_path):
    write_variants(tmp_path / "runs")
    build_report(tmp_path / "runs", tmp_path / "out")
    rows = {row["experiment"]: row for row in table(tmp_path / "out", "meld-classification")}
    assert (rows["egmf"]["fusion"], rows["concat"]["fusion"]) == ("egmf", "concat")
    assert rows["on-en"]["setup"].endswith("trained on en")
    assert rows["egmf"]["p_value"] == "", "the one that the others are compared with"
    assert 0 < float(rows["concat"]["p_value"]) < 0.05
    ablations = table(tmp_path / "out", "meld-ablations")
    assert [(row["experiment"], row["fusion"]) for row in ablations] == [("concat", "concat")]
    raw, corrected = (float(ablations[0][f"weighted_f1_p_{end}"]) for end in ("value", "holm"))
    assert corrected == float(rows["concat"]["p_value"])
    assert raw <= corrected <= 2 * raw


def test_a_fusion_without_a_gate_alone_has_every_other_part(tmp_path):
    write_variants(tmp_path / "runs")
    for name in ("egmf", "on-en"):
        (tmp_path / "runs" / "meld" / name).rename(tmp_path / name)
    report = build_report(tmp_path / "runs", tmp_path / "out")
    titles = [part.title for part in report.sections[0].parts]
    assert "Errors worth reading: concat" in titles
    assert not any("gate" in title for title in titles)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Gate weights" not in text


def test_encoders_and_random_weights_are_named_where_they_differ(tmp_path):
    emotion_run(tmp_path / "runs", "egmf", skill=0.8)
    folder = emotion_run(tmp_path / "runs", "wavlm", random_weights=True, llm="a/b/Qwen/small")
    changed = {"slug": "wavlm-ffff", "fingerprint": "ff" * 32}
    edit_result(folder, lambda result: result["features"]["audio"].update(changed))
    one, two = experiments_of(tmp_path / "runs")
    assert one.setup_among([one]) == "text + audio + visual"
    assert two.setup_among([one, two]) == (
        "text + audio + visual; audio of wavlm-ffff; writes with Qwen/small; random weights"
    )


def test_the_whole_corpus_leads_before_one_language(tmp_path):
    emotion_run(tmp_path, "on-en", train_languages=["en"], skill=0.99)
    emotion_run(tmp_path, "egmf", skill=0.3)
    assert lead_experiment(experiments_of(tmp_path)).name == "egmf"


def test_modality_subsets_without_a_known_ceiling(tmp_path):
    emotion_run(tmp_path / "runs", "egmf")
    emotion_run(tmp_path / "runs", "text", modalities=("text",))
    emotion_run(tmp_path / "runs", "text-concat", modalities=("text",), fusion="concat")
    build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    rows = table(tmp_path / "out", "meld-modalities")
    assert [(row["experiment"], row["text"], row["audio"]) for row in rows] == [
        ("egmf", "●", "●"),
        ("text", "●", ""),
    ]


# Figures beside the Markdown, intervals beside every figure


def test_figures_of_the_markdown_lie_beside_it_in_plain_colours(tmp_path):
    write_demo(tmp_path / "runs", rows=60)
    build_report(tmp_path / "runs", tmp_path / "out", ("md",))
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"^!\[[^]]+\]\((figures/[\w.-]+\.svg)\)$", text, re.MULTILINE)
    written = {f"figures/{path.name}" for path in (tmp_path / "out" / "figures").iterdir()}
    assert set(linked) == written
    assert len(linked) == len(written) > 10
    for name in linked:
        drawing = (tmp_path / "out" / name).read_text(encoding="utf-8")
        root = ElementTree.fromstring(drawing)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"].removesuffix("pt")) > 200
        assert "var(" not in drawing
        assert "background: #ffffff" in root.attrib["style"]


def test_every_score_of_a_part_of_the_split_has_an_interval(tmp_path):
    write_demo(tmp_path / "runs", rows=120, seeds=(1, 2))
    build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    for name, key in (
        ("demo-classification-languages", "weighted_f1"),
        ("demo-regression-languages", "mae"),
        ("demo-classification-seeds", "uar"),
        ("demo-classes", "f1"),
    ):
        for row in table(tmp_path / "out", name):
            low, score, high = (float(row[f"{key}{end}"]) for end in ("_low", "", "_high"))
            assert low < score < high, (name, row)
            assert high - low < 0.6, (name, row)


def test_every_table_has_its_fingerprints(tmp_path):
    write_run(tmp_path / "runs", rows=60)
    report = build_report(tmp_path / "runs", tmp_path / "out", ("html", "md"))
    (section,) = report.sections
    words = "Labels ab12cd34; features text 0f00d0ab, audio 1f00d1ab, visual 2f00d2ab; "
    assert section.provenance.startswith(words)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    measured = sum(table.measured for table in section.tables)
    assert page.count(words) == measured > 8
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").count(words) == measured


def test_the_card_shows_the_main_experiment_not_the_best_on_the_test_split(tmp_path):
    emotion_run(tmp_path / "runs", "egmf", skill=0.3)
    emotion_run(tmp_path / "runs", "text", modalities=("text",), skill=0.9)
    report = build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    (card,) = report.sections[0].cards
    assert card.details[0].startswith("egmf: ")
    assert card.details[-1].startswith("the best of 2: text, ")


def test_training_on_several_corpora_is_said(tmp_path):
    both = ["meld", "cherma"]
    emotion_run(tmp_path / "runs", "joint", train_datasets=both, transfer={"mosi": transfer()})
    (experiment,) = experiments_of(tmp_path / "runs")
    assert experiment.setup.endswith("trained on meld + cherma")
    build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    row = table(tmp_path / "out", "transfer-classification-weighted_f1")[0]
    assert row["trained_on"] == "meld + cherma"
