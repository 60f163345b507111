"""The report from run folders to files: figures, alarms, damaged and mixed runs."""

import json

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.report.alarms import alarms
from pipeline.report.build import build_report
from pipeline.report.corpus import Corpus
from pipeline.report.experiments import lead_experiment
from pipeline.report.load import load_runs, read_predictions
from pipeline.report.run_tables import footnotes
from tests.helpers_runs import (
    edit_result,
    emotion_run,
    experiments_of,
    sims_run,
    table,
    write_many,
    write_run,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Report of a demo with every modality subset, and of three benchmarks."""
    root = tmp_path_factory.mktemp("report")
    report = build_report(write_many(root / "runs"), root / "out")
    return root, report


# Figures


def test_means_and_deviations_over_seeds(made):
    root, _ = made
    scores = [
        json.loads(path.read_text(encoding="utf-8"))["test"]["weighted_f1"]
        for path in sorted((root / "runs" / "meld" / "egmf").glob("*/result.json"))
    ]
    row = next(
        each for each in table(root / "out", "meld-classification") if each["experiment"] == "egmf"
    )
    assert float(row["weighted_f1"]) == pytest.approx(np.mean(scores), abs=1e-12)
    assert float(row["weighted_f1_sd"]) == pytest.approx(np.std(scores, ddof=1), abs=1e-12)
    assert row["seeds"] == "3"


def test_one_seed_has_no_deviation_and_baselines_stand_below(made):
    rows = table(made[0] / "out", "simsv2-regression")
    assert [row["experiment"] for row in rows] == ["egmf", "Constant median"]
    assert rows[0]["acc2_sd"] == ""
    assert rows[1]["corr"] == "", "a constant has no correlation"
    metrics = ["acc2", "acc2_weak", "acc3", "acc5", "f1", "mae", "corr", "r2"]
    ends = ("", "_sd", "_low", "_high")
    expected = [f"{key}{end}" for key in metrics for end in ends]
    assert list(rows[0]) == ["experiment", *expected, "seeds", "fusion", "setup"]


def test_every_seed_is_printed(made):
    rows = table(made[0] / "out", "meld-classification-seeds")
    assert [row["seed"] for row in rows] == ["1111", "2222", "3333"]


def test_experiments_are_ranked_and_the_best_is_bold(made):
    text = (made[0] / "out" / "tables" / "demo-classification.tex").read_text(encoding="utf-8")
    first = text.split(r"\midrule")[1].splitlines()[1]
    assert first.startswith("egmf & ")
    assert first.count(r"\textbf") == 4
    assert text.count(r"\textbf") == 4
    errors = [row["mae"] for row in table(made[0] / "out", "demo-regression")[:-1]]
    assert float(errors[0]) == min(map(float, errors)), "a low error is the best one"


def test_published_rows_stand_in_their_own_block(made):
    root, _ = made
    rows = table(root / "out", "meld-published")
    assert rows[0]["method"] == "EGMF"
    assert rows[0]["status"] == "aggregator"
    assert rows[0]["protocol"].startswith("context not stated")
    assert not (root / "out" / "tables" / "demo-published.csv").exists()


def test_lead_is_the_whole_model_on_most_modalities(tmp_path):
    write_run(tmp_path, experiment="text", modalities=("text",), skill=0.99)
    write_run(tmp_path, experiment="concat", fusion="concat", skill=0.9)
    write_run(tmp_path, experiment="egmf", skill=0.5)
    assert lead_experiment(experiments_of(tmp_path)).name == "egmf"


def test_labels_that_look_like_missing_values_stay(tmp_path):
    folder = write_run(tmp_path, task=("classification",), labels=("NA", "None", "null"), rows=40)
    rows = read_predictions(folder / "predictions-test.csv")
    assert set(rows["truth"]) == {"NA", "None", "null"}
    assert alarms(experiments_of(tmp_path)) == []


# Alarms


def test_one_predicted_class_is_said_loudly(tmp_path):
    emotion_run(tmp_path, "egmf", collapsed=True)
    emotion_run(tmp_path, "other")
    found = alarms(experiments_of(tmp_path))
    assert found == ["egmf, seed 1: COLLAPSED: all 60 predictions are “neutral”."]


def test_constant_and_one_sided_scores_are_said_loudly(tmp_path):
    sims_run(tmp_path, "constant", collapsed=True)
    folder = sims_run(tmp_path, "sided")
    path = folder / "predictions-test.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",")
    place = header.index("prediction")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[place] = str(abs(float(row[place])))
    path.write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n", encoding="utf-8")
    found = "\n".join(alarms(experiments_of(tmp_path)))
    assert "constant, seed 1: COLLAPSED: all predictions are +0.00." in found
    assert "sided, seed 1: COLLAPSED: all predictions lie on the same side of zero." in found


def test_scores_equal_to_the_baseline_are_said_loudly(tmp_path):
    folder = emotion_run(tmp_path, predictions=False)

    def copy_baseline(result):
        for key in ("accuracy", "weighted_f1"):
            result["test"][key] = result["baselines"]["majority"][key]

    edit_result(folder, copy_baseline)
    assert any("equal the majority class's" in text for text in alarms(experiments_of(tmp_path)))


def test_a_result_that_its_predictions_contradict_is_reported(tmp_path):
    folder = write_run(tmp_path, rows=60)
    assert alarms(experiments_of(tmp_path)) == []
    edit_result(folder, lambda result: result["test"].update(accuracy=0.99))
    (found,) = alarms(experiments_of(tmp_path))
    assert "result.json has accuracy 0.99, its predictions give" in found


def test_unreadable_answers_are_wrong_and_counted(tmp_path):
    folder = emotion_run(tmp_path)
    path = folder / "predictions-test.csv"
    text = path.read_text(encoding="utf-8").replace(",True,", ",False,", 1)
    path.write_text(text, encoding="utf-8")
    edit_result(folder, lambda result: result["test"].update(unreadable_classification=1))
    experiments = experiments_of(tmp_path)
    assert footnotes(experiments, Corpus())[-1] == (
        "Answers that could not be read: egmf, classification: 1 of 60."
    )


def test_seeds_of_different_setups_are_not_averaged(tmp_path):
    emotion_run(tmp_path, seed=1)
    emotion_run(tmp_path, seed=2)
    emotion_run(tmp_path, seed=3, table_sha256="ff" * 32)
    experiments = experiments_of(tmp_path)
    assert [(each.name, len(each.runs)) for each in experiments] == [
        ("egmf (setup A)", 2),
        ("egmf (setup B)", 1),
    ]
    found = "\n".join(alarms(experiments))
    assert "The seeds of egmf differ in labels and splits" in found
    assert "2 different versions of the labels" in found


def test_notes_name_the_data_and_what_was_set_aside(made):
    root, _ = made
    page = (root / "out" / "index.html").read_text(encoding="utf-8")
    latex = (root / "out" / "tables" / "simsv2-regression.tex").read_text(encoding="utf-8")
    for text in (page, latex):
        assert "ab12cd34" in text
        assert "2,721 train rows, 2,722 expected" in text
        assert "file is missing: 2" in text
    assert "hf:tiny-visual, 32 dimensions, 2f00d2ab" in latex


# Damaged and unfinished runs


def damage_nothing_there(folder):
    (folder / "result.json").unlink()


def damage_broken_json(folder):
    path = folder / "result.json"
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")


def damage_binary(folder):
    (folder / "result.json").write_bytes(b"\xff\xfe\x00")


def damage_a_list(folder):
    (folder / "result.json").write_text("[]", encoding="utf-8")


def damage_missing_key(folder):
    edit_result(folder, lambda result: result.pop("labels"))


def damage_missing_metric(folder):
    edit_result(folder, lambda result: result["test"].pop("weighted_f1"))


def damage_other_format(folder):
    edit_result(folder, lambda result: result.update(format=2))


def damage_other_seed(folder):
    edit_result(folder, lambda result: result.update(seed=9))


def damage_confusion(folder):
    edit_result(folder, lambda result: result["test"].update(confusion=[[1, 2]]))


def damage_a_number(folder):
    edit_result(folder, lambda result: result["test"].update(accuracy="good"))


def damage_a_count(folder):
    edit_result(folder, lambda result: result["test"]["confusion"][0].__setitem__(0, "x"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_a_number, "test.accuracy holds something that is no number"),
        (damage_a_count, "test.confusion holds something that is no number"),
        (damage_nothing_there, "no result.json: still running, or stopped before its end"),
        (damage_broken_json, "result.json cannot be read"),
        (damage_binary, "result.json cannot be read"),
        (damage_a_list, "result.json has format None, this version reads 1"),
        (damage_missing_key, "result.json: labels: Field required"),
        (damage_missing_metric, "test lacks weighted_f1"),
        (damage_other_format, "result.json has format 2, this version reads 1: train it again"),
        (damage_other_seed, "is of meld, seed 9, but lies in meld/seed-2"),
        (damage_confusion, "test.confusion is not 7 x 7"),
    ],
)
def test_a_damaged_run_is_listed_and_not_averaged(tmp_path, damage, reason):
    emotion_run(tmp_path / "runs", seed=1)
    damage(emotion_run(tmp_path / "runs", seed=2))
    report = build_report(tmp_path / "runs", tmp_path / "out")
    (skipped,) = report.skipped
    assert skipped.name == "meld/egmf/seed-2"
    assert reason in skipped.reason
    assert table(tmp_path / "out", "meld-classification")[0]["seeds"] == "1"
    for name in ("index.html", "report.md"):
        assert "meld/egmf/seed-2" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_a_log_cut_off_half_way_still_draws(tmp_path):
    folder = emotion_run(tmp_path)
    path = folder / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-30] + b"\xff\n[1]\n")
    (run,) = load_runs(tmp_path).runs
    assert len(run.epochs()) == 7
    assert len(run.steps()) == 160


def test_no_runs_is_a_plain_error(tmp_path):
    with pytest.raises(PipelineError, match=r"does not exist; train one with: egmf-train"):
        build_report(tmp_path / "runs", tmp_path / "out")
    (tmp_path / "runs").mkdir()
    with pytest.raises(PipelineError, match=r"holds no run; train one with: egmf-train"):
        build_report(tmp_path / "runs", tmp_path / "out")


def test_no_finished_run_is_a_plain_error(tmp_path):
    (tmp_path / "runs" / "meld" / "egmf" / "seed-1").mkdir(parents=True)
    with pytest.raises(PipelineError, match=r"no finished run in .*meld/egmf/seed-1: no result"):
        build_report(tmp_path / "runs", tmp_path / "out")


def test_a_report_that_cannot_be_written_is_a_plain_error(tmp_path):
    emotion_run(tmp_path / "runs")
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(PipelineError, match="cannot write the report"):
        build_report(tmp_path / "runs", tmp_path / "out")
