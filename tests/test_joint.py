"""One model on several datasets: whose batch comes when, what lies where, how it resumes."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from extract.table import write_table
from pipeline.commands import train
from pipeline.errors import PipelineError
from pipeline.fitting import _outputs
from pipeline.items import Utterance
from pipeline.joint import run_joint
from pipeline.manifest import load_manifest
from pipeline.model import load_model, open_backbone
from pipeline.prediction import open_run
from pipeline.report.load import load_runs
from pipeline.request import Request
from pipeline.runs import RunFolder
from pipeline.sampler import epoch_batches, joint_batches, shares_of
from pipeline.settings import TrainSettings
from tests.helpers_toy import (
    DIMS,
    MANIFEST,
    no_progress,
    toy_features,
    toy_table,
    write_feature_set,
)
from tests.test_training import SETTINGS, SMALL, Killed, request, result_of, run
from tests.test_transfer import add_dataset

ENTRY = (
    MANIFEST.replace("task: [classification, regression]", "task: classification")
    .replace("    scores: {low: -1, high: 1, step: 0.1}\n", "")
    .replace("protocol: mosi", "protocol: emotion")
    .replace("name: joy, en: joy, ", "name: happiness, same_as: [joy], en: happy, ")
    .replace("splits: {train: 64, valid: 16, test: 16}", "splits: {train: 16, valid: 16, test: 16}")
)


def rows(count: int, split: str = "train") -> list[Utterance]:
    return [Utterance(f"{split}-{n}", split, "en", None, None, None) for n in range(count)]


def test_shares_of_datasets() -> None:
    assert shares_of([100], 16, 5.0) == [7]
    assert shares_of([640, 160], 16, 1.0) == [40, 10]
    # Roots of 640 and 160 are as 2 to 1.
    assert shares_of([640, 160], 16, 2.0) == [33, 17]
    assert shares_of([16000, 1], 16, 1.5) == [999, 2]


def test_every_dataset_walks_through_its_passes_whatever_the_epoch() -> None:
    datasets = [rows(40, "a"), rows(10, "b")]
    epochs = [list(joint_batches(datasets, 4, 7, n, temperature=2.0)) for n in range(1, 5)]
    assert [Counter(place for place, _ in each) for each in epochs] == [Counter({0: 9, 1: 4})] * 4
    small = [row.id for each in epochs for place, batch in each for row in batch if place == 1]
    # Sixteen batches of the small one are five whole passes and a third of one.
    assert Counter(Counter(small).values()) == Counter({5: 6, 6: 4})
    large = [row.id for each in epochs for place, batch in each for row in batch if place == 0]
    assert set(Counter(large[:40]).values()) == {1}
    assert list(joint_batches(datasets, 4, 7, 3, temperature=2.0)) == epochs[2]
    assert epochs[0] != epochs[1]


def test_alone_a_dataset_is_sampled_as_ever() -> None:
    one = rows(19)
    for epoch in (1, 2, 5):
        joint = [batch for _, batch in joint_batches([one], 4, 7, epoch, temperature=3.0)]
        alone = list(epoch_batches(one, 4, 7, epoch))
        assert sorted(map(str, joint)) == sorted(map(str, alone))


def test_labels_that_mean_the_same_share_an_output() -> None:
    known = load_manifest().datasets
    meld, cherma = _outputs([known["meld"], known["cherma"]])
    assert meld["joy"] == cherma["happiness"]
    assert set(meld.values()) == set(cherma.values()) == set(range(7))


@pytest.fixture
def both(toy: Path) -> Path:
    """Add a smaller dataset that has labels alone, one of them under another name."""
    table = toy_table()
    table["label"] = table["label"].replace("joy", "happiness")
    kept = (table["split"] != "train") | (table.index < 16)
    add_dataset(toy, "deux", table, ENTRY)
    write_table(table[kept].assign(score=None), toy / "cache" / "deux" / "utterances.parquet")
    return toy


def requests(both: Path, llm: Path, **changes: Any) -> list[Request]:
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 2})
    wanted = {"settings": settings, **changes}
    return [request(both, llm, dataset=name, **wanted) for name in ("toy", "deux")]


def dying(stop_after: int) -> Callable[..., Any]:
    @contextmanager
    def progress(_: str, __: int) -> Iterator[Callable[[int], None]]:
        seen = 0

        def advance(count: int) -> None:
            nonlocal seen
            seen += count
            if seen >= stop_after:
                raise Killed

        yield advance

    return progress


def test_one_model_is_scored_on_every_dataset(both: Path, toy_llm: Path) -> None:
    longer = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 5})
    wanted = requests(both, toy_llm, settings=longer)
    folders = run_joint(wanted, no_progress, lambda line: None)
    assert [each.path.relative_to(both / "runs").as_posix() for each in folders] == [
        "deux/egmf-joint-deux+toy/seed-1",
        "toy/egmf-joint-deux+toy/seed-1",
    ]
    deux, toy = map(result_of, folders)
    assert deux["train_datasets"] == toy["train_datasets"] == ["deux", "toy"]
    assert (deux["task"], toy["task"]) == (["classification"], ["classification", "regression"])
    assert deux["labels"] == ["anger", "happiness"]
    assert toy["test"]["accuracy"] >= 0.8
    assert deux["test"]["accuracy"] >= 0.8
    # 64 and 16 rows make 4 + 1 batches; roots of 64 and 16 are as 2 to 1.
    assert toy["steps"] == toy["epochs"] * (3 + 2)
    assert toy["transfer"]["deux"]["accuracy"] == deux["test"]["accuracy"]
    assert toy["transfer"]["deux"]["trained_on"] is True
    whole = RunFolder(both / "runs" / "joint" / "deux+toy" / "egmf" / "seed-1")
    summary = json.loads(whole.result.read_text())
    assert summary["test"]["toy"] == toy["test"]
    (epoch, *_) = [
        json.loads(line) for line in whole.log.read_text().splitlines() if '"epoch",' in line
    ]
    accuracy, error = epoch["valid"]["deux"]["weighted_f1"], epoch["valid"]["toy"]["mae"]
    own = epoch["valid"]["toy"]["weighted_f1"] - error / 2
    assert epoch["selection"] == pytest.approx((accuracy + own) / 2)
    assert len(load_runs(both / "runs").runs) == 2
    scaling = json.loads(whole.scaling.read_text())
    assert {"toy/audio", "deux/audio"} < set(scaling)
    assert scaling["toy/audio"] != scaling["deux/audio"]
    model = load_model(folders[0].best, open_backbone(str(toy_llm), torch.device("cpu")))
    assert model.fusion.config.targets == 3
    with pytest.raises(PipelineError) as refused:
        open_run(whole.path)
    assert str(refused.value).endswith(", ".join(str(each.path) for each in folders))
    before = [each.result.stat().st_mtime_ns for each in folders]
    run_joint(wanted, no_progress, lambda line: None)
    assert [each.result.stat().st_mtime_ns for each in folders] == before


def test_a_killed_joint_run_resumes_to_the_same_weights(both: Path, toy_llm: Path) -> None:
    expected = run_joint(
        requests(both, toy_llm, experiment="undisturbed"), no_progress, lambda line: None
    )
    with pytest.raises(Killed):
        run_joint(requests(both, toy_llm), dying(7), lambda line: None)
    with pytest.raises(PipelineError, match="unfinished run; go on with --resume"):
        run_joint(requests(both, toy_llm), no_progress, lambda line: None)
    found = run_joint(requests(both, toy_llm, resume=True), no_progress, lambda line: None)
    for one, two in zip(expected, found, strict=True):
        first, second = (load_file(each.best / "fusion.safetensors") for each in (one, two))
        assert all(first[name].equal(second[name]) for name in first)
        assert one.predictions("test").read_bytes() == two.predictions("test").read_bytes()


def test_what_does_not_fit_together_is_said(
    both: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = requests(both, toy_llm)
    with pytest.raises(PipelineError, match="at least two datasets"):
        run_joint(wanted[:1], no_progress, lambda line: None)
    with pytest.raises(PipelineError, match="--joint and --folds are not supported"):
        run_joint(requests(both, toy_llm, folds="speaker"), no_progress, lambda line: None)
    visual = both / "cache" / "deux" / "visual"
    shutil.rmtree(visual)
    monkeypatch.setitem(DIMS, "visual", 5)
    table = toy_table()
    wider = toy_features(table, "visual")
    write_feature_set(both / "cache", "visual", table["id"].tolist(), wider, dataset="deux")
    with pytest.raises(PipelineError, match=r"the visual features of 'deux' have 5 dimensions"):
        run_joint(wanted, no_progress, lambda line: None)
    shutil.rmtree(visual)
    with pytest.raises(PipelineError, match=r"'deux' has no visual .* --modalities text,audio"):
        run_joint(wanted, no_progress, lambda line: None)
    assert not (both / "runs").exists()


def test_one_task_alone(toy: Path, toy_llm: Path) -> None:
    settings = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1})
    folder = run(request(toy, toy_llm, settings=settings, tasks=("regression",)))
    assert folder.path.parent.name == "egmf-only-regression"
    result = result_of(folder)
    assert result["task"] == ["regression"]
    assert "accuracy" not in result["test"]
    assert result["test"]["n_regression"] == 16
    with pytest.raises(PipelineError, match=r"--tasks regresion: .*did you mean 'regression'"):
        run(request(toy, toy_llm, tasks=("regresion",)))


def test_the_command_takes_every_real_dataset_of_the_cache(
    both: Path, toy_llm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo beside real datasets is not asked for; alone it would be."""
    demo = both / "cache" / "demo" / "utterances.parquet"
    demo.parent.mkdir()
    demo.touch()
    assert train._cached_datasets(both / "cache") == ["deux", "toy"]
    arguments = ["egmf-train", "--from-cache", "--joint", "--preset", "tiny", "--seed", "1"]
    arguments += ["--cache", both / "cache", "--manifest", both / "toy.yaml", "--llm", toy_llm]
    arguments += ["--runs", both / "runs", "--epochs", "1", "--set", "joint_temperature=1"]
    arguments += [word for each in SMALL for word in ("--set", each)]
    monkeypatch.setattr(sys, "argv", [str(each) for each in arguments])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert ["deux/egmf-joint-deux+toy" in lines[0], "toy/egmf-joint" in lines[1]] == [True, True]
    # One that is given twice is one part, here of the model that is there.
    sys.argv += [word for name in ("toy", "deux", "toy") for word in ("--dataset", name)]
    with pytest.raises(SystemExit):
        train.main()
    assert capsys.readouterr().out.splitlines() == lines
    for name in ("deux", "toy"):
        (both / "cache" / name / "utterances.parquet").unlink()
    assert train._cached_datasets(both / "cache") == ["demo"]
