"""Ceilings, comparisons, missing modalities, calibration, mistakes and what the cache adds."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from extract.files import sha256_of
from extract.table import write_table
from pipeline.errors import PipelineError
from pipeline.report.build import build_report
from pipeline.report.ceilings import against_ceiling
from pipeline.report.compare import compare_experiments
from pipeline.report.corpus import read_corpus
from pipeline.report.experiments import lead_experiment
from pipeline.report.mistakes import mistake_table
from pipeline.report.protocols import CORR, MAE, WEIGHTED_F1
from pipeline.report.resampling import Resampler
from pipeline.report.significance import judge_against
from pipeline.report.study_tables import comparison_tables, missing_table
from pipeline.report.wording import plain
from tests.helpers_runs import (
    edit_result,
    emotion_run,
    experiments_of,
    sims_run,
    table,
    write_demo,
    write_run,
)

HOSTILE = '<script>alert(1)</script> "\u202egnp.exe\u2066\u0000 </td>{{ 7*7 }}' + "x" * 10_000


def write_cache(root, run_folder, *, text="a plain sentence", groups=True):
    """Write a cache whose table holds the run's test rows; return its folder and digest."""
    rows = pd.read_csv(run_folder / "predictions-test.csv")["id"].drop_duplicates()
    dataset = run_folder.parent.parent.name
    frame = pd.DataFrame({"id": rows, "split": "test", "language": "en", "text": text})
    if groups:
        frame["group"] = [f"dialogue-{number // 5}" for number in range(len(frame))]
    path = root / dataset / "utterances.parquet"
    path.parent.mkdir(parents=True)
    write_table(frame, path)
    digest = sha256_of(path)
    edit_result(run_folder, lambda result: result.update(table_sha256=digest))
    return digest


# Ceilings


def test_share_of_the_ceiling_by_hand(tmp_path):
    write_run(tmp_path, ceiling={"weighted_f1": 0.8, "corr": 0.9, "mae": 0.5}, rows=80)
    experiments = experiments_of(tmp_path)
    test = experiments[0].result.test
    (row,) = against_ceiling(experiments, "classification", WEIGHTED_F1, Resampler())
    assert row.share == pytest.approx(test["weighted_f1"] / 0.8)
    assert row.interval[0] < test["weighted_f1"] < row.interval[1]
    assert row.share_interval == pytest.approx(tuple(bound / 0.8 for bound in row.interval))


def test_an_error_has_no_share_of_a_ceiling(tmp_path):
    write_run(tmp_path / "runs", ceiling={"mae": 0.5}, rows=80)
    experiments = experiments_of(tmp_path / "runs")
    (row,) = against_ceiling(experiments, "regression", MAE, Resampler())
    assert (row.share, row.share_interval) == (None, None)
    build_report(tmp_path / "runs", tmp_path / "out", ("csv", "md"))
    (printed,) = table(tmp_path / "out", "demo-ceiling-mae")
    assert float(printed["gap"]) == pytest.approx(experiments[0].result.test["mae"] - 0.5)
    assert "share" not in printed
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "expected error of the posterior median" in text


def test_context_has_no_ceiling(tmp_path):
    ceiling = {"weighted_f1": 0.8, "corr": 0.9}
    write_run(tmp_path, experiment="alone", ceiling=ceiling, rows=80)
    write_run(tmp_path, experiment="before", context=2, ceiling=ceiling, rows=80)
    write_run(tmp_path, experiment="after", context_after=1, ceiling=ceiling, rows=80)
    rows = against_ceiling(experiments_of(tmp_path), "regression", CORR, Resampler())
    assert [row.experiment.name for row in rows] == ["alone"]
    assert lead_experiment(experiments_of(tmp_path)).name == "alone"


def test_no_predictions_leave_the_interval_out_and_say_so(tmp_path):
    write_run(tmp_path / "runs", predictions=False)
    report = build_report(tmp_path / "runs", tmp_path / "out")
    assert any("predictions-test.csv is missing" in text for text in report.sections[0].alarms)
    assert table(tmp_path / "out", "demo-ceiling-corr")[0]["interval"] == ""


# Comparisons


def test_experiments_are_tested_against_the_lead(tmp_path):
    write_run(tmp_path, experiment="egmf", skill=0.9)
    write_run(tmp_path, experiment="text", modalities=("text",), skill=0.3)
    write_run(tmp_path, experiment="other", modalities=("audio",), skill=0.3, rows=200)
    write_run(tmp_path, experiment="no-gate", ablate=["gate"], skill=0.8)
    lead, *others = sorted(experiments_of(tmp_path), key=lambda each: each.name)
    verdicts = {
        task: judge_against(lead, others, task, lead.headline(task), Resampler())
        for task in lead.result.task
    }
    ablations, rest = comparison_tables("demo", lead, others, verdicts)
    assert [row.cells[0].text for row in ablations.rows] == ["no-gate"]
    rows = {row.cells[0].text: [cell.value for cell in row.cells] for row in rest.rows}
    assert sorted(rows) == ["other", "text"]
    expected = others[2].mean("weighted_f1") - lead.mean("weighted_f1")
    assert rows["text"][1] == pytest.approx(expected)
    assert rows["text"][3] < 0.01
    assert rows["text"][4] == pytest.approx(2 * rows["text"][3]), "two of three can be paired"
    assert rows["other"][1:5] == [None] * 4, "another test split cannot be paired"


def test_two_experiments_in_every_metric(tmp_path):
    for seed in (1, 2, 3):
        sims_run(tmp_path, "good", seed, skill=0.9)
        sims_run(tmp_path, "poor", seed, skill=0.2)
    (tmp_path / "simsv2" / "poor" / "seed-9").mkdir()
    (tmp_path / "simsv2" / "third" / "seed-9").mkdir(parents=True)
    (found,) = compare_experiments(tmp_path, "simsv2/good", "poor")
    rows = {row.cells[0].text.split()[0]: row.cells for row in found.rows}
    one, two = (each for each in experiments_of(tmp_path))
    assert len(found.rows) == 8
    assert rows["MAE"][3].value == pytest.approx(one.mean("mae") - two.mean("mae"))
    assert rows["MAE"][3].value < 0 < rows["Corr"][3].value
    assert rows["MAE"][5].value < 0.01
    assert "seeds are drawn too (3 and 3)" in found.notes[0]
    assert [note.split(",")[0] for note in found.notes[1:]] == ["Left out: simsv2/poor/seed-9"]


def test_comparing_what_cannot_be_compared_is_a_plain_error(tmp_path):
    sims_run(tmp_path, "egmf", rows=60)
    sims_run(tmp_path, "other", rows=61)
    emotion_run(tmp_path, "third")
    with pytest.raises(PipelineError, match=r"'egmff' \(did you mean 'egmf'\?\); there are"):
        compare_experiments(tmp_path, "egmff", "other")
    with pytest.raises(PipelineError, match="no dataset has both 'egmf' and 'third'"):
        compare_experiments(tmp_path, "egmf", "third")
    with pytest.raises(PipelineError, match="cannot be paired"):
        compare_experiments(tmp_path, "egmf", "other")


# Missing modalities, calibration


def test_taken_away_stands_beside_never_had(tmp_path):
    write_run(tmp_path, experiment="egmf", without={"text": {"weighted_f1": 0.5, "mae": 1.0}})
    write_run(tmp_path, experiment="text", modalities=("text",))
    write_run(tmp_path, experiment="text-2", modalities=("text",), context=2)
    experiments = experiments_of(tmp_path)
    whole, text = missing_table("demo", lead_experiment(experiments), experiments).rows
    assert whole.cells[1].value == experiments[0].mean("weighted_f1")
    assert [cell.value for cell in text.cells] == [
        "text", 0.5, experiments[1].mean("weighted_f1"), 1.0, experiments[1].mean("mae"), "text"
    ]  # fmt: skip


def test_calibration_says_its_error_and_temperature(tmp_path):
    folder = emotion_run(tmp_path / "runs")
    rows = pd.read_csv(folder / "predictions-test.csv")
    rows["probability"] = 0.75
    rows.to_csv(folder / "predictions-test.csv", index=False)
    build_report(tmp_path / "runs", tmp_path / "out", ("html",))
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    gap = abs((rows["truth"] == rows["prediction"]).mean() - 0.75)
    assert f"Calibration: expected error {100 * gap:.1f} %" in text
    assert "temperature 1.25, fitted on validation" in text


# Mistakes


def test_confident_mistakes_by_hand(tmp_path):
    folder = emotion_run(tmp_path, skill=1.0)
    path = folder / "predictions-test.csv"
    rows = pd.read_csv(path)
    rows["prediction"] = rows["truth"]
    wrong = {3: ("anger", 0.6), 7: ("fear", 0.9), 11: ("joy", 0.7)}
    for place, (label, probability) in wrong.items():
        rows.loc[place, ["truth", "prediction", "probability"]] = "neutral", label, probability
    rows.loc[11, "valid"] = False
    rows.to_csv(path, index=False)
    (lead,) = experiments_of(tmp_path)
    corpus = read_corpus(None, "meld", {"x"})
    found = mistake_table("meld", "classification", lead, corpus)
    shown = [[cell.value for cell in row.cells[:4]] for row in found.rows]
    assert shown == [
        ["meld-test-00007", "neutral", "fear", 0.9],
        ["meld-test-00003", "neutral", "anger", 0.6],
    ]
    assert found.notes[-1] == "No transcripts: no cache was given or found."


def test_a_mistake_is_one_that_most_seeds_make(tmp_path):
    for seed in (1, 2, 3):
        path = emotion_run(tmp_path, seed=seed) / "predictions-test.csv"
        rows = pd.read_csv(path)
        rows["prediction"] = rows["truth"]
        rows.loc[0, ["truth", "prediction"]] = "neutral", "joy"
        if seed == 1:
            rows.loc[1, ["truth", "prediction"]] = "neutral", "joy"
        else:
            rows.loc[1, ["truth", "prediction"]] = "neutral", "neutral"
        rows.to_csv(path, index=False)
    (lead,) = experiments_of(tmp_path)
    found = mistake_table("meld", "classification", lead, read_corpus(None, "meld", {"x"}))
    assert [row.cells[0].text for row in found.rows] == ["meld-test-00000"]


def test_farthest_scores_by_hand(tmp_path):
    folder = sims_run(tmp_path)
    rows = pd.read_csv(folder / "predictions-test.csv")
    distance = (rows["truth"] - rows["prediction"]).abs()
    (lead,) = experiments_of(tmp_path)
    found = mistake_table("simsv2", "regression", lead, read_corpus(None, "simsv2", {"x"}))
    assert found.rows[0].cells[0].text == rows["id"][distance.idxmax()]
    assert found.rows[0].cells[3].value == pytest.approx(distance.max())


# What the cache adds


def test_hostile_transcripts_are_shown_harmlessly(tmp_path):
    folder = emotion_run(tmp_path / "runs", skill=0.1)
    write_cache(tmp_path / "cache", folder, text=HOSTILE)
    build_report(tmp_path / "runs", tmp_path / "out", cache=tmp_path / "cache")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "⟨U+202E⟩gnp.exe⟨U+2066⟩⟨U+0000⟩" in text
    assert not set(text) & set("\u202e\u2066\u0000")
    assert "{{ 7*7 }}" in text, "shown, not evaluated"
    assert f"({len(HOSTILE):,} characters)" in text
    assert "x" * 300 not in text
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert not (tmp_path / "out" / "tables" / "meld-classification-mistakes.csv").exists()


def test_plain_text():
    assert plain("a\tb\n c") == "a b c"
    assert plain("你好\u200b世界") == "你好⟨U+200B⟩世界"
    assert plain("اهلا 👩‍👧") == "اهلا 👩‍👧", "scripts written from the right, joined emoji"
    assert plain("e" + "\u0301" * 100) == "e" + "\u0301" * 3
    assert plain("abcdef", 4) == "abcd … (6 characters)"


def test_transcripts_of_another_table_are_refused(tmp_path):
    folder = emotion_run(tmp_path / "runs")
    write_cache(tmp_path / "cache", folder, text="a secret")
    edit_result(folder, lambda result: result.update(table_sha256="0" * 64))
    build_report(tmp_path / "runs", tmp_path / "out", cache=tmp_path / "cache")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "a secret" not in text
    assert "is another version than the runs were trained on" in text


def test_dialogues_are_drawn_whole_where_they_are_known(tmp_path):
    folder = emotion_run(tmp_path / "runs")
    digest = write_cache(tmp_path / "cache", folder)
    corpus = read_corpus(tmp_path / "cache", "meld", {digest})
    assert corpus.groups["meld-test-00004"] == "dialogue-0"
    assert "over whole dialogues or videos" in Resampler(corpus.groups).method
    assert "over utterances" in Resampler(None).method
    (experiment,) = experiments_of(tmp_path / "runs")
    intervals = {
        Resampler(groups).interval(experiment, "classification", WEIGHTED_F1.key)
        for groups in (corpus.groups, None)
    }
    assert len(intervals) == 2


def test_cost_of_extraction_is_read_from_its_log(tmp_path):
    emotion_run(tmp_path / "runs")
    line = {
        "finished": "2026-01-02T03:04:05+00:00",
        "modalities": [
            {"modality": "text", "encoder": "hf:x", "utterances_encoded": 50, "megabytes": 1.5},
            {"modality": "audio", "encoder": "whisper:x", "utterances_encoded": 0, "megabytes": 3},
        ],
        "seconds": 25.0,
        "utterances_encoded": 50,
        "utterances_per_second": 2.0,
        "peak_memory": 2**30,
    }
    (tmp_path / "cache" / "meld").mkdir(parents=True)
    log = tmp_path / "cache" / "meld" / "extract-log.jsonl"
    log.write_text(json.dumps(line) + '\n{"other": 1}\n[]\n{"finished', encoding="utf-8")
    build_report(tmp_path / "runs", tmp_path / "out", ("csv",), cache=tmp_path / "cache")
    (row,) = table(tmp_path / "out", "meld-extraction")
    assert row == {
        "finished": "2026-01-02 03:04",
        "modalities": "text",
        "items": "50",
        "seconds": "25.0",
        "items_per_second": "2.0",
        "peak_memory_bytes": str(2**30),
        "megabytes": "4.5",
    }


# Runs of other kinds


def test_a_corpus_without_test_split_shows_validation_and_says_so(tmp_path):
    folder = emotion_run(tmp_path / "runs")
    edit_result(folder, lambda result: (result.pop("test"), result.pop("baselines")))
    report = build_report(tmp_path / "runs", tmp_path / "out", ("csv", "html"))
    valid = json.loads((folder / "result.json").read_text(encoding="utf-8"))["valid"]
    (row,) = table(tmp_path / "out", "meld-classification")
    assert float(row["accuracy"]) == valid["accuracy"]
    assert report.sections[0].tables[0].title == "Emotion classification, validation"
    assert report.sections[0].alarms == (
        "No test split: the figures of egmf are of the validation split, which chose the epoch.",
    )


def test_seeds_of_different_settings_or_versions_are_told_apart(tmp_path):
    for seed in (1, 2, 3):
        folder = emotion_run(tmp_path / "runs", seed=seed)
        rate = 0.001 if seed < 3 else 0.1
        (folder / "config.yaml").write_text(f"seed: {seed}\nrate: {rate}\n", encoding="utf-8")
    edit_result(
        tmp_path / "runs" / "meld" / "egmf" / "seed-2",
        lambda result: result["environment"].update(torch="1.0"),
    )
    report = build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    rows = table(tmp_path / "out", "meld-classification")[:-1]
    assert sorted((row["experiment"], row["seeds"]) for row in rows) == [
        ("egmf (setup A)", "2"),
        ("egmf (setup B)", "1"),
    ]
    found = "\n".join(report.sections[0].alarms)
    assert "The seeds of egmf differ in settings" in found
    assert "The seeds of egmf (setup A) ran with different versions of torch" in found


def test_seeds_of_an_older_version_stand_beside_new_ones(tmp_path):
    """They recorded neither the model's digest nor the entry's; those of two new ones count."""
    folders = [emotion_run(tmp_path / "runs", seed=seed) for seed in (1, 2, 3)]
    later = {"llm_sha256": "a", "entry_sha256": {"labels": "b"}}
    plain = [
        {"llm": "cache/llm", "rate": 0.1},
        {"llm": "/elsewhere/llm", **later, "rate": 0.1},
        {"llm": "/elsewhere/llm", **later, "rate": 0.1},
    ]

    def seeds() -> list[str]:
        for seed, (folder, config) in enumerate(zip(folders, plain, strict=True), start=1):
            config = {"seed": seed, **config}
            (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
        report = build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
        alarms.append("\n".join(report.sections[0].alarms))
        return [row["seeds"] for row in table(tmp_path / "out", "meld-classification")[:-1]]

    alarms: list[str] = []
    assert seeds() == ["3"]
    plain[0] |= later
    plain[2] = plain[2] | {"entry_sha256": {"labels": "c"}}
    assert sorted(seeds()) == ["1", "2"]
    assert "The seeds of egmf differ in questions and answers: they" in alarms[1]


def test_alarms_of_training_are_printed_once(tmp_path):
    folder = emotion_run(tmp_path / "runs", collapsed=True)
    said = "collapsed: 100% of all answers are 'neutral'"
    edit_result(folder, lambda result: result.update(alarms=[said]))
    report = build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    assert report.sections[0].alarms == (
        "egmf, seed 1: Collapsed: 100% of all answers are 'neutral'.",
    )


def test_every_part_of_a_real_run_is_there(tmp_path):
    write_demo(tmp_path / "runs", rows=60, seeds=(1, 2))
    report = build_report(tmp_path / "runs", tmp_path / "out")
    assert [part.title for part in report.sections[0].parts] == [
        "Scores",
        "Modality subsets against the ceiling",
        "Comparison",
        "When a modality is missing",
        "Answers: egmf",
        "Errors worth reading: egmf",
        "What the gate listens to: egmf",
        "By class, language and seed",
        "Training and cost",
    ]
    drawn = {each.name for part in report.sections[0].parts for each in part.drawings}
    assert {"d1-calibration", "d1-gates-languages", "d1-probe", "d1-ceiling-mae"} <= drawn
    rows = table(tmp_path / "out", "demo-classification")
    low, score, high = (float(rows[0][f"uar{end}"]) for end in ("_low", "", "_high"))
    assert low < score < high
    assert not math.isnan(low)
    assert np.isfinite(score)
