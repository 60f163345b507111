"""When two runs are the same: settings, questions and model, and what old runs did not record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import PipelineError
from pipeline.experiment import config_of
from pipeline.identity import comparable, differing, named
from pipeline.runs import RunFolder
from tests.helpers_toy import MANIFEST
from tests.test_folds import open_toy
from tests.test_selection import settings
from tests.test_training import Killed, request, run

BEFORE: dict[str, Any] = {
    "dataset": "toy",
    "llm": "hub/a",
    "settings": {"dim": 16, "rank": 2},
    "context": 0,
}


def test_what_differs_is_named() -> None:
    assert differing(BEFORE, {**BEFORE}) == []
    after = {**BEFORE, "settings": {"dim": 32, "rank": 2}, "llm": "hub/b", "folds": "speaker"}
    assert differing(BEFORE, after) == ["llm", "settings.dim", "folds"]
    assert differing(after, BEFORE) == ["llm", "settings.dim", "folds"]
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_what_an_old_run_did_not_record_is_not_compared() -> None:
    new = {**BEFORE, "llm_sha256": "1", "entry_sha256": {"labels": "2", "prompts": "3"}}
    assert differing(BEFORE, new) == []
    other = {**new, "entry_sha256": {"labels": "2", "prompts": "4"}}
    assert differing(new, other) == ["entry_sha256.prompts"]
    joint = [{"joint": {"a": each, "b": new}} for each in (BEFORE, new, other)]
    assert differing(joint[0], joint[2]) == []
    assert differing(joint[1], joint[2]) == ["joint.a.entry_sha256.prompts"]


def test_a_model_is_its_contents_where_they_are_known() -> None:
    first, second = ({**BEFORE, "llm_sha256": "1", "llm": each} for each in ("hub/a", "hub/b"))
    assert differing(first, second) == []
    assert differing(first, {**second, "llm_sha256": "2"}) == ["llm_sha256"]


def test_seeds_are_set_side_by_side_by_what_all_of_them_recorded() -> None:
    new = {**BEFORE, "seed": 1, "llm_sha256": "1", "entry_sha256": {"labels": "2"}}
    moved = {**new, "seed": 2, "llm": "hub/b"}
    first, second = comparable([new, moved])
    assert first == second
    assert "entry_sha256" in first
    first, second = comparable([{**BEFORE, "seed": 3}, new])
    assert first == second
    assert first.keys() == BEFORE.keys() - {"llm"}
    assert (first["settings"]["dim"], first["settings"]["rank"]) == (16, 2)


def test_a_setting_that_an_old_run_did_not_know_had_its_default() -> None:
    later = {**BEFORE, "settings": {**BEFORE["settings"], "modalities_dropped": 1}}
    assert differing(BEFORE, later) == []
    assert len({str(each) for each in comparable([{**BEFORE, "seed": 1}, later])}) == 1
    later["settings"]["modalities_dropped"] = 2
    assert differing(BEFORE, later) == ["settings.modalities_dropped"]


def test_the_entry_counts_where_training_or_scoring_reads_it(toy: Path, toy_llm: Path) -> None:
    def entry(old: str = "", new: str = "") -> dict[str, str]:
        assert old in MANIFEST
        (toy / "toy.yaml").write_text(MANIFEST.replace(old, new) if old else MANIFEST)
        config = config_of(request(toy, toy_llm), open_toy(toy), "egmf", 1)
        found: dict[str, str] = config["entry_sha256"]
        return found

    def changed(old: str, new: str) -> set[str]:
        found = entry(old, new)
        return {name for name in before if found[name] != before[name]}

    before = entry()
    assert set(before) == {"task", "labels", "scores", "protocol", "prompts"}
    assert changed("en: joy", "en: happy") == {"labels"}
    assert changed("low: -1", "low: -2") == {"scores"}
    assert changed("protocol: mosi", "protocol: sims") == {"protocol"}
    prompts = "prompts: {en: {regression: ['Score it: {signals}']}}\n    protocol: mosi"
    assert changed("protocol: mosi", prompts) == {"prompts"}
    french = prompts.replace("en:", "fr:")
    assert changed("protocol: mosi", french) == set()  # in which no row is
    assert changed("train: 64", "train: 65") == set()
    assert changed("name: joy,", "name: joy, aliases: [glad],") == set()


def test_other_words_or_another_model_are_another_run(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = toy / "llm"
    shutil.copytree(toy_llm, llm)
    wanted = {"settings": settings(epochs=1), "modalities": ("text",)}
    monkeypatch.chdir(toy)
    folder = run(request(toy, Path("llm"), **wanted))
    assert folder.read_config()["llm"] == str(llm)
    done = folder.result.stat().st_mtime_ns

    def again(model: Path = llm) -> None:
        assert run(request(toy, model, **wanted)).result.stat().st_mtime_ns == done

    again()
    again(toy_llm)  # the same model at another place
    (toy / "toy.yaml").write_text(MANIFEST.replace("en: joy", "en: happy"))
    with pytest.raises(PipelineError, match=r"other features \(entry_sha256\.labels\); name anoth"):
        again()
    (toy / "toy.yaml").write_text(MANIFEST)
    tokenizer = llm / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(PipelineError, match=r"\(llm_sha256\)"):
        again()
    _forget(folder, "llm_sha256", "entry_sha256")
    again()
    with pytest.raises(PipelineError, match=r"\(llm\)"):
        again(toy_llm)
    folder.config.write_text("a: [")
    with pytest.raises(PipelineError, match=r"config\.yaml cannot be read: .*--fresh"):
        again()


def test_an_unfinished_run_does_not_go_on_under_other_prompts(toy: Path, toy_llm: Path) -> None:
    wanted = {"settings": settings(epochs=2), "modalities": ("text",)}
    with pytest.raises(Killed):
        run(request(toy, toy_llm, **wanted), stop_after=5)
    prompts = "prompts: {en: {regression: ['Score it: {signals}']}}\n    protocol: mosi"
    (toy / "toy.yaml").write_text(MANIFEST.replace("protocol: mosi", prompts))
    with pytest.raises(PipelineError, match=r"\(entry_sha256\.prompts\.regression en\)"):
        run(request(toy, toy_llm, resume=True, **wanted))
    folder = RunFolder(toy / "runs" / "toy" / "egmf-text" / "seed-1")
    progress = json.loads((folder.checkpoint / "progress.json").read_text())
    assert (progress["epoch"], progress["utterances"]) == (1, 64)
    assert 0 < progress["step_seconds"] < progress["seconds"]


def _forget(folder: RunFolder, *keys: str) -> None:
    """Make a run's configuration one of a version that did not record these."""
    config = {key: each for key, each in folder.read_config().items() if key not in keys}
    folder.config.write_text(yaml.safe_dump(config, sort_keys=False))
