"""One loaded language model for many runs: nothing of one run is left in the next."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from generate.backbone import LoraSettings, load_backbone
from pipeline import experiment, model
from pipeline.settings import TrainSettings
from tests.helpers_toy import no_progress
from tests.test_training import SETTINGS, request

FRESH_PROCESS = """
import sys
from pathlib import Path
from tests.test_backbone import ONE_EPOCH
from tests.test_training import request, run
toy, llm = map(Path, sys.argv[1:])
run(request(toy, llm, settings=ONE_EPOCH, seeds=(2,), modalities=("audio",), experiment="alone"))
"""
ONE_EPOCH = TrainSettings(**{**SETTINGS.model_dump(), "epochs": 1, "lora_dropout": 0.1})
CPU = torch.device("cpu")


def test_an_adapter_leaves_nothing_behind(toy_llm: Path) -> None:
    bare = AutoModelForCausalLM.from_pretrained(toy_llm, dtype=torch.float32).state_dict()
    backbone = load_backbone(str(toy_llm), device=CPU, dtype=torch.float32)
    torch.manual_seed(7)
    first = backbone.adapt(LoraSettings(rank=4)).model
    drawn = {name: each.detach().clone() for name, each in first.named_parameters()}
    for parameter in first.parameters():
        if parameter.requires_grad:
            torch.nn.init.ones_(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(7)
        second = backbone.adapt(LoraSettings(rank=4)).model
        again = dict(second.named_parameters())
        assert again.keys() == drawn.keys()
        assert all(torch.equal(again[name], each) for name, each in drawn.items())
        plain = backbone.adapt(None).model
    assert not any(isinstance(each, LoraLayer) for each in plain.modules())
    assert not any(each.requires_grad for each in plain.parameters())
    found = plain.state_dict()
    assert found.keys() == bare.keys()
    assert all(torch.equal(found[name], each) for name, each in bare.items())


def test_seeds_of_one_process_equal_those_of_fresh_ones(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def counted(*arguments: object) -> object:
        loads.append(arguments)
        return model.open_backbone(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "open_backbone", counted)
    wanted = request(
        toy,
        toy_llm,
        settings=ONE_EPOCH,
        seeds=(1, 2),
        modalities=("audio",),
        experiment="together",
    )
    _, second = experiment.run_experiment(wanted, no_progress, lambda line: None)
    assert len(loads) == 1
    subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(toy), str(toy_llm)],
        check=True,
        cwd=Path(__file__).parents[1],
    )
    alone = toy / "runs" / "toy" / "alone" / "seed-2"
    for name in (
        "best/adapter_model.safetensors",
        "best/fusion.safetensors",
        "predictions-test.csv",
        "predictions-valid.csv",
    ):
        assert (second.path / name).read_bytes() == (alone / name).read_bytes(), name
