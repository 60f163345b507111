"""Learning without labels: what is hidden, both losses by hand, and runs that begin with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from extract.table import write_table
from fuse.streams import Stream
from fuse.variants.self_supervision import SelfSupervision, core_of, hide_segments, info_nce
from pipeline import pretraining
from pipeline.errors import PipelineError
from pipeline.runs import RunFolder
from pipeline.settings import TrainSettings
from tests.helpers_toy import DIMS, toy_features, toy_table, write_feature_set, write_toy_manifest
from tests.test_fuse import make_fusion, make_streams
from tests.test_training import SETTINGS, Killed, request, result_of, run

NAMES = ("text", "audio", "visual")
LENGTHS = {"text": [10, 1, 0, 0], "audio": [4, 1, 7, 0], "visual": [6, 1, 0, 0]}


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{**SETTINGS.model_dump(), "epochs": 2, **changes})


def test_one_run_of_rows_is_hidden_in_one_modality_that_is_there() -> None:
    streams = make_streams(NAMES, LENGTHS)
    seen = set()
    for seed in range(30):
        hidden = hide_segments(streams, torch.Generator().manual_seed(seed))
        counts = torch.stack([hidden[name].sum(dim=1) for name in NAMES], dim=1)
        assert ((counts > 0).sum(dim=1)[:3] == 1).all()
        assert counts[1].sum() == 1
        assert counts[2].tolist() == [0, 2, 0]
        assert counts[3].sum() == 0
        expected = {"text": 3, "audio": 1, "visual": 2}
        (name,) = [name for name in NAMES if hidden[name][0].any()]
        places = hidden[name][0].nonzero().flatten()
        assert len(places) == expected[name]
        assert (places.diff() == 1).all()
        assert all((hidden[each] <= streams[each].mask).all() for each in NAMES)
        seen.add((name, int(places[0])))
    assert {name for name, _ in seen} == set(NAMES)
    assert len(seen) > 8


def test_info_nce_by_hand() -> None:
    """Two pairs at right angles: each finds its own among two, log(1 + exp(-1 / 0.5))."""
    unit = torch.eye(2)
    assert info_nce(unit, unit, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert info_nce(unit, unit.flip(0), 0.5).item() == pytest.approx(math.log(1 + math.exp(2)))


def test_hidden_rows_are_not_seen_and_alone_are_judged() -> None:
    fusion = make_fusion(NAMES, variant="emo-caps", dropout=0.0)
    heads = SelfSupervision(fusion.config.inputs, 16)
    streams = make_streams(NAMES, {"text": [4, 3], "audio": [2, 2], "visual": [1, 5]})
    hidden = {name: torch.zeros_like(stream.mask) for name, stream in streams.items()}
    hidden["text"][0, 1:3] = True

    def losses(text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        changed = streams | {"text": Stream(text, streams["text"].mask)}
        with torch.no_grad():
            return heads(fusion, changed, hidden)

    reconstruction, contrast = losses(streams["text"].value)
    moved = streams["text"].value.clone()
    moved[0, 1:3] += 10.0
    farther, same = losses(moved)
    assert farther > reconstruction + 10
    torch.testing.assert_close(same, contrast)
    for head in heads.rebuild.values():
        torch.nn.init.zeros_(head[2].weight)
        torch.nn.init.zeros_(head[2].bias)
    expected = streams["text"].value[0, 1:3].square().mean()
    torch.testing.assert_close(losses(streams["text"].value)[0], expected)


def test_the_contrast_is_between_those_that_have_both() -> None:
    fusion = make_fusion(("text", "audio"), variant="emo-caps", dropout=0.0)
    heads = SelfSupervision(fusion.config.inputs, 16)

    def contrast(lengths: dict[str, list[int]]) -> float:
        streams = make_streams(("text", "audio"), lengths)
        hidden = {name: torch.zeros_like(stream.mask) for name, stream in streams.items()}
        with torch.no_grad():
            return float(heads(fusion, streams, hidden)[1])

    both = contrast({"text": [3, 2], "audio": [1, 4]})
    assert both > 0
    more = contrast({"text": [3, 2, 2], "audio": [1, 4, 0]})
    assert more == pytest.approx(both, abs=1e-5)
    assert contrast({"text": [3, 2], "audio": [1, 0]}) == 0.0


def test_both_losses_reach_the_encoders_and_every_head() -> None:
    fusion = make_fusion(NAMES, variant="emo-caps").train()
    heads = SelfSupervision(fusion.config.inputs, 16)
    streams = make_streams(NAMES, {"text": [4, 3, 2], "audio": [2, 2, 5], "visual": [1, 5, 3]})
    hidden = {name: torch.zeros_like(stream.mask) for name, stream in streams.items()}
    for row, name in enumerate(NAMES):
        hidden[name][row, 0] = True
    torch.stack(heads(fusion, streams, hidden)).sum().backward()
    parts = [("heads", heads), ("core", core_of(fusion)), ("projections", fusion.projections)]
    dead = [f"{p}.{n}" for p, part in parts for n, w in part.named_parameters() if w.grad is None]
    assert dead == []


def test_only_emo_caps_can_be_pretrained(toy: Path, toy_llm: Path) -> None:
    with pytest.raises(ValueError, match="only emo-caps is pre-trained, not mult"):
        core_of(make_fusion(NAMES, variant="mult"))
    wanted = request(toy, toy_llm, fusion="mult", settings=settings(pretrain_epochs=2))
    with pytest.raises(PipelineError, match="pretrain_epochs=2: only --fusion emo-caps is pre-tra"):
        run(wanted)


def pretrain_lines(folder: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.log.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "pretrain"]


def write_with_unlabelled(folder: Path) -> None:
    """The toy corpus and 32 rows more, without a label, half of them in a third language."""
    write_toy_manifest(folder / "toy.yaml")
    table = toy_table()
    more = table[table["split"] == "train"].head(32).copy()
    scores = more["score"]
    more = more.assign(id="free-" + more["id"], split="unlabelled", group="free")
    more["language"] = ["en", "fr"] * 16
    whole = pd.concat([table, more.assign(label=None, score=None)], ignore_index=True)
    write_table(whole, folder / "cache" / "toy" / "utterances.parquet")
    signal = pd.concat([table, more.assign(score=scores)], ignore_index=True)
    for modality in DIMS:
        rows = toy_features(signal, modality)
        write_feature_set(folder / "cache", modality, whole["id"].tolist(), rows)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, toy_llm: Path) -> RunFolder:
    folder = tmp_path_factory.mktemp("unlabelled")
    write_with_unlabelled(folder)
    return run(request(folder, toy_llm, fusion="emo-caps", settings=settings(pretrain_epochs=4)))


def test_pretraining_learns_from_unlabelled_rows_of_the_same_languages(
    pretrained: RunFolder,
) -> None:
    lines = pretrain_lines(pretrained)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert {line["rows"] for line in lines} == {64 + 16}
    assert {line["unlabelled"] for line in lines} == {16}
    for loss in ("reconstruction", "contrast"):
        assert lines[-1][loss] < 0.9 * lines[0][loss]


def test_a_run_that_was_killed_comes_to_the_same_weights(
    pretrained: RunFolder, toy_llm: Path
) -> None:
    """Before the first checkpoint pre-training is done again; after it, it is not."""
    folder = pretrained.path.parents[3]
    for name, stop_after in (("early", 2), ("late", 6)):
        wanted: dict[str, Any] = {
            "fusion": "emo-caps",
            "settings": settings(pretrain_epochs=4),
            "experiment": name,
        }
        with pytest.raises(Killed):
            run(request(folder, toy_llm, **wanted), stop_after=stop_after)
        again = run(request(folder, toy_llm, resume=True, **wanted))
        expected = load_file(pretrained.best / "fusion.safetensors")
        found = load_file(again.best / "fusion.safetensors")
        assert all(torch.equal(expected[each], found[each]) for each in expected)
        assert [line["epoch"] for line in pretrain_lines(again)] == [1, 2, 3, 4]


def test_labels_play_no_part_and_without_unlabelled_rows_training_rows_are_read(
    toy: Path, toy_llm: Path
) -> None:
    wanted = settings(pretrain_epochs=1)
    first = run(request(toy, toy_llm, fusion="emo-caps", settings=wanted))
    (line,) = pretrain_lines(first)
    assert (line["rows"], line["unlabelled"]) == (64, 0)
    path = toy / "cache" / "toy" / "utterances.parquet"
    table = toy_table()
    table["score"] = -table["score"]
    table["label"] = table["label"].map({"anger": "joy", "joy": "anger"})
    write_table(table, path)
    second = run(request(toy, toy_llm, fusion="emo-caps", settings=wanted, experiment="turned"))
    (other,) = pretrain_lines(second)
    assert other["reconstruction"] == line["reconstruction"]
    assert other["contrast"] == line["contrast"]


def test_a_step_that_is_not_finite_is_skipped_and_too_many_end_it(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, bad, seen = pretraining._losses, {1, 2}, iter(range(10**6))

    def spoiled(*arguments: Any) -> torch.Tensor:
        losses: torch.Tensor = sound(*arguments)
        return losses * float("nan") if next(seen) in bad else losses

    monkeypatch.setattr(pretraining, "_losses", spoiled)
    wanted = settings(pretrain_epochs=1, epochs=1, max_skipped=3)
    folder = run(request(toy, toy_llm, fusion="emo-caps", settings=wanted))
    (line,) = pretrain_lines(folder)
    assert math.isfinite(line["reconstruction"])
    assert result_of(folder)["skipped_steps"] == 2
    assert result_of(folder)["steps"] == 4
    bad |= {*range(5, 100)}
    again = request(toy, toy_llm, fusion="emo-caps", settings=wanted, experiment="lost")
    with pytest.raises(PipelineError, match="not finite in 3 steps in a row, in epoch 1 of pre-tr"):
        run(again)
