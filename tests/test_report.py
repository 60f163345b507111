"""The report from run folders to files: figures, alarms, damage, hostile text, the command."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.report.build import build_report
from pipeline.report.ceilings import against_ceiling
from pipeline.report.experiments import alarms, group_experiments, lead_experiment
from pipeline.report.load import load_runs, read_predictions
from pipeline.report.protocols import CORR, MAE, WEIGHTED_F1
from pipeline.report.run_tables import footnotes
from pipeline.report.writers import latex_escape, markdown_escape
from tests.helpers_runs import write_demo, write_run

MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SPITEFUL = "<script>alert(1)<"


def emotion_run(runs, experiment="egmf", seed=1, **changes):
    settings = {"protocol": "emotion", "task": ("classification",), "labels": MELD, "rows": 60}
    return write_run(runs, "meld", experiment, seed, **(settings | changes))


def sims_run(runs, experiment="egmf", seed=1, **changes):
    settings = {"protocol": "sims", "task": ("regression",), "rows": 60}
    return write_run(runs, "simsv2", experiment, seed, **(settings | changes))


def edit_result(folder, change):
    path = folder / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    change(result)
    path.write_text(json.dumps(result), encoding="utf-8")


def table(out, name):
    with (out / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def experiments_of(runs):
    return group_experiments(load_runs(runs).runs)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Report of a demo with every modality subset, and of three benchmarks."""
    root = tmp_path_factory.mktemp("report")
    runs = root / "runs"
    write_demo(runs, rows=100)
    for seed in (1111, 2222, 3333):
        emotion_run(runs, seed=seed, skill=0.6)
    emotion_run(runs, SPITEFUL, 1111, modalities=("text", "audio"), ablate=["gate"])
    sims_run(runs, count_mismatch="2,721 train rows, 2,722 expected")
    write_run(runs, "mosei", "egmf", 1, task=("regression",), rows=60)
    (runs / "meld" / "stopped" / "seed-1").mkdir(parents=True)
    report = build_report(runs, root / "out")
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
    expected = [f"{key}{end}" for key in metrics for end in ("", "_sd")]
    assert list(rows[0]) == ["experiment", *expected, "seeds", "setup"]


def test_every_seed_is_printed(made):
    rows = table(made[0] / "out", "meld-classification-seeds")
    assert [row["seed"] for row in rows] == ["1111", "2222", "3333"]


def test_experiments_are_ranked_and_the_best_is_bold(made):
    text = (made[0] / "out" / "tables" / "demo-classification.tex").read_text(encoding="utf-8")
    first = text.split(r"\midrule")[1].splitlines()[1]
    assert first.startswith("egmf & ")
    assert first.count(r"\textbf") == 3
    assert text.count(r"\textbf") == 3
    errors = [row["mae"] for row in table(made[0] / "out", "demo-regression")[:-1]]
    assert float(errors[0]) == min(map(float, errors)), "a low error is the best one"


def test_published_rows_stand_in_their_own_block(made):
    root, _ = made
    rows = table(root / "out", "meld-published")
    assert rows[0]["method"] == "EGMF"
    assert rows[0]["status"] == "aggregator"
    assert rows[0]["protocol"].startswith("context not stated")
    assert not (root / "out" / "tables" / "demo-published.csv").exists()


def test_share_of_the_ceiling_by_hand(tmp_path):
    write_run(tmp_path, ceiling={"weighted_f1": 0.8, "corr": 0.9, "mae": 0.5}, rows=80)
    experiments = experiments_of(tmp_path)
    test = experiments[0].result.test
    (row,) = against_ceiling(experiments, "classification", WEIGHTED_F1)
    assert row.share == pytest.approx(test["weighted_f1"] / 0.8)
    assert row.interval[0] < test["weighted_f1"] < row.interval[1]
    assert row.share_interval == pytest.approx(tuple(bound / 0.8 for bound in row.interval))
    assert row.difference is None
    (row,) = against_ceiling(experiments, "regression", MAE)
    assert row.share == pytest.approx(0.5 / test["mae"])
    low, high = row.interval
    assert row.share_interval == pytest.approx((0.5 / high, 0.5 / low))


def test_subsets_are_tested_against_the_lead(tmp_path):
    write_run(tmp_path, experiment="egmf", skill=0.9)
    write_run(tmp_path, experiment="text", modalities=("text",), skill=0.3)
    write_run(tmp_path, experiment="audio", modalities=("audio",), skill=0.3, rows=200)
    rows = {
        row.experiment.name: row
        for row in against_ceiling(experiments_of(tmp_path), "regression", CORR)
    }
    assert rows["egmf"].difference is None
    assert rows["text"].difference.difference < 0
    assert rows["text"].difference.p_value < 0.01
    assert rows["audio"].difference is None, "another test split cannot be paired"


def test_no_predictions_leave_the_interval_out_and_say_so(tmp_path):
    write_run(tmp_path / "runs", predictions=False)
    report = build_report(tmp_path / "runs", tmp_path / "out")
    assert any("predictions-test.csv is missing" in text for text in report.sections[0].alarms)
    assert table(tmp_path / "out", "demo-ceiling-corr")[0]["interval"] == ""


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
    assert found == ["egmf, seed 1: COLLAPSED: all 60 test predictions are “neutral”."]


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
    assert "constant, seed 1: COLLAPSED: all test predictions are +0.00." in found
    assert "sided, seed 1: COLLAPSED: all test predictions lie on the same side of zero." in found


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
    assert footnotes(experiments)[-1] == (
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


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_nothing_there, "no result.json: still running, or stopped before its end"),
        (damage_broken_json, "result.json cannot be read"),
        (damage_binary, "result.json cannot be read"),
        (damage_a_list, "result.json"),
        (damage_missing_key, "result.json: labels: Field required"),
        (damage_missing_metric, "test lacks weighted_f1"),
        (damage_other_format, "result.json: format"),
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


# The page


class Page(HTMLParser):
    """Collects the page's tags, attributes and ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "action", "poster", "srcset", "data"}:
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on"), (tag, name)


def test_the_page_loads_nothing_and_runs_nothing(made):
    text = (made[0] / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "iframe", "link", "img", "object", "embed", "image"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links}
    assert targets <= set(page.ids)


def test_hostile_names_are_shown_harmlessly(made):
    root, _ = made
    text = (root / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;" in text
    assert "<script" not in (root / "out" / "report.md").read_text(encoding="utf-8")
    latex = (root / "out" / "tables" / "meld-classification.tex").read_text(encoding="utf-8")
    assert r"\textless{}script\textgreater{}" in latex


def test_hostile_text_inside_drawings_is_escaped(tmp_path):
    name = '"><script>$x$&'
    write_run(tmp_path / "runs", experiment=name, rows=60, labels=("</text><b>", "a$b$"))
    build_report(tmp_path / "runs", tmp_path / "out", ("html",))
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert page.tags.count("svg") == 9
    first = text[text.index("<svg") : text.index("</svg>")]
    assert "&lt;script&gt;$x$&amp;</text>" in first, "shown as it is, not set as a formula"


def test_drawings_follow_the_theme(made):
    text = (made[0] / "out" / "index.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    for stand_in in ("#010203", "#040506", "#070809"):
        assert stand_in not in text
    assert "var(--ink, #1c2126)" in text
    assert text.count("<svg") == text.count('role="img"') > 15


def test_random_weights_are_watermarked_everywhere(made):
    root, _ = made
    out = root / "out"
    words = "andom weights: figures show that the pipeline works, not what the method reaches"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert words in page
    assert words in (out / "report.md").read_text(encoding="utf-8")
    for path in (out / "tables").glob("*.tex"):
        assert (words in path.read_text(encoding="utf-8")) == path.name.startswith("demo-"), path
    sections = page.split('class="dataset"')[1:]
    assert [words in section for section in sections] == [True, False, False, False]


def test_equal_runs_give_equal_files(tmp_path):
    sims_run(tmp_path / "runs")
    first = build_report(tmp_path / "runs", tmp_path / "first").files
    again = build_report(tmp_path / "runs", tmp_path / "again").files
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_formats_are_written_alone(tmp_path):
    emotion_run(tmp_path / "runs")
    build_report(tmp_path / "runs", tmp_path / "out", ("csv",))
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".csv"}


# Escaping


def test_latex_escapes():
    assert latex_escape(r"a_b & 50% $x$ {\y} #1 ^~") == (
        r"a\_b \& 50\% \$x\$ \{\textbackslash{}y\} \#1 \textasciicircum{}\textasciitilde{}"
    )
    assert latex_escape("R² ↑ 1 ± 2 – −3") == r"R$^2$ $\uparrow$ 1 $\pm$ 2 -- $-$3"


def test_markdown_escapes():
    assert markdown_escape("a|b *c* <i>&\nd") == r"a\|b \*c\* &lt;i&gt;&amp; d"


def test_latex_tables_have_as_many_cells_as_columns(made):
    for path in (made[0] / "out" / "tables").glob("*.tex"):
        text = path.read_text(encoding="utf-8")
        layout = re.search(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)[1]
        columns = re.sub(
            r">\{.*?\}p\{3\.2cm\}", "p", layout.replace(r"\raggedright\arraybackslash", "")
        )
        lines = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert len(lines) > 1
        for line in lines:
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1, (path.name, line)


# The command


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.commands.report import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_and_says_what(tmp_path):
    emotion_run(tmp_path / "runs", collapsed=True)
    (tmp_path / "runs" / "meld" / "halt" / "seed-1").mkdir(parents=True)
    done = command("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["skipped"][0]["run"] == "meld/halt/seed-1"
    assert "COLLAPSED" in result["datasets"]["meld"]["alarms"][0]
    assert str(tmp_path / "out" / "index.html") in result["files"]
    assert "left out meld/halt/seed-1" in done.stderr
    assert "COLLAPSED" in done.stderr


def test_the_command_fails_in_plain_words(tmp_path):
    done = command("--runs", str(tmp_path / "none"))
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: .*none does not exist; train one with: egmf-train .*\n", done.stderr
    )
    done = command("--format", "md,pdf")
    assert done.returncode == 2
    assert "pdf: give any of md, csv, latex, html" in done.stderr
