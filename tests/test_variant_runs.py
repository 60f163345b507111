"""Runs of the fusion variants: learning, results, equal size, prediction, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from fuse.config import VARIANTS
from pipeline.commands.train import Fusions
from pipeline.errors import PipelineError
from pipeline.model import load_model, open_backbone
from pipeline.settings import OF_EGMF, TrainSettings
from tests.test_training import SETTINGS, request, result_of, run

OTHERS = tuple(name for name in VARIANTS if name != "egmf")


def changed(**settings: object) -> TrainSettings:
    return TrainSettings(**{**SETTINGS.model_dump(), **settings})


def test_the_command_offers_every_fusion() -> None:
    assert tuple(each.value for each in Fusions) == VARIANTS


@pytest.mark.parametrize("variant", OTHERS)
def test_every_variant_learns_and_loads_again(toy: Path, toy_llm: Path, variant: str) -> None:
    folder = run(request(toy, toy_llm, fusion=variant, settings=changed(epochs=5, match_size=True)))
    assert folder.path.parent.name == variant
    result = result_of(folder)
    assert result["test"]["accuracy"] >= 0.85
    assert result["baselines"]["majority"]["accuracy"] < 0.75
    assert result["noise_probe"] is None
    table = pd.read_csv(folder.predictions("test"))
    assert not [name for name in table.columns if name.startswith("gate")]
    model = load_model(folder.best, open_backbone(str(toy_llm), torch.device("cpu")))
    assert model.fusion.config.variant == variant
    assert sum(p.numel() for p in model.fusion.parameters()) == result["parameters"]["fusion"]


def test_match_size_is_resolved_in_the_model_file(toy: Path, toy_llm: Path) -> None:
    sizes = {}
    for variant in ("egmf", "concat"):
        settings = changed(epochs=1, match_size=True)
        folder = run(request(toy, toy_llm, fusion=variant, settings=settings))
        fields = json.loads((folder.best / "model.json").read_text())
        sizes[variant] = (fields["dim"], result_of(folder)["parameters"]["fusion"])
    assert sizes["egmf"][0] == SETTINGS.dim
    assert sizes["concat"][0] > SETTINGS.dim
    assert sizes["concat"][1] == pytest.approx(sizes["egmf"][1], rel=0.1)


@pytest.mark.parametrize("part", sorted(OF_EGMF))
def test_a_variant_has_no_part_of_egmf_to_leave_out(toy: Path, toy_llm: Path, part: str) -> None:
    with pytest.raises(PipelineError, match=f"--ablate {part}: --fusion mult has no such part"):
        run(request(toy, toy_llm, fusion="mult", ablate=(part,)))


def test_a_variant_runs_with_context_and_without_pseudo_tokens(toy: Path, toy_llm: Path) -> None:
    wanted = request(
        toy,
        toy_llm,
        fusion="emo-caps",
        ablate=("pseudo-tokens",),
        context=(2, 1),
        settings=changed(epochs=1),
    )
    folder = run(wanted)
    assert folder.path.parent.name == "emo-caps-context-2-1-no-pseudo-tokens"
    assert result_of(folder)["fusion"] == "emo-caps"
