"""Two processes on the CPU against one: the same losses, weights and answers; one writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.distributed import Processes, this_process
from pipeline.runs import RunFolder
from pipeline.settings import resolve_settings
from tests.test_training import request, run

ROOT = Path(__file__).parents[1]
# Four steps an epoch, twenty in all; the last of each epoch has one utterance for two processes.
SETTINGS = (
    "dim=16", "heads=2", "layers=1", "batch_size=21", "epochs=5", "select=last", "dropout=0",
    "lora_dropout=0", "entropy_weight=0.01", "class_weights=balanced",
)  # fmt: skip
LAUNCH = {
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    "torchrun": ("torch.distributed.run", "--nproc-per-node", "2"),
}


def trained_by_two(toy: Path, llm: Path, launcher: str) -> RunFolder:
    """Train with the command, in two processes."""
    command = [
        *(sys.executable, "-m", *LAUNCH[launcher], "-m", "pipeline.commands.train"),
        *("--from-cache", "--quiet", "--device", "cpu", "--preset", "tiny", "--llm", str(llm)),
        *("--dataset", "toy", "--manifest", str(toy / "toy.yaml"), "--cache", str(toy / "cache")),
        *("--runs", str(toy / "two"), "--seed", "1"),
        *(part for each in SETTINGS for part in ("--set", each)),
    ]
    subprocess.run(command, check=True, cwd=ROOT, timeout=280)
    return RunFolder(toy / "two" / "toy" / "egmf" / "seed-1")


def weights_of(folder: RunFolder) -> dict[str, Tensor]:
    """Return the kept weights that matter.

    A softmax does not see what is added to all of its inputs alike, such as the bias of attention's
    keys: the gradient of those is rounding alone, which Adam blows up to steps of full size.
    """
    found = {}
    for name in ("adapter_model.safetensors", "fusion.safetensors"):
        for key, each in load_file(folder.best / name).items():
            if key.endswith("in_proj_bias"):
                query, _, value = each.chunk(3)
                found[key] = torch.cat([query, value])
            elif not key.endswith(".score.bias"):
                found[key] = each
    return {key: each.double() for key, each in found.items()}


def losses_of(folder: RunFolder) -> list[float]:
    lines = [json.loads(line) for line in folder.log.read_text().splitlines()]
    return [line.get("loss", line.get("train_loss")) for line in lines]


@pytest.mark.parametrize(
    "launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)]
)
def test_two_processes_equal_one(toy: Path, toy_llm: Path, launcher: str) -> None:
    settings = resolve_settings("tiny", SETTINGS)
    one = run(request(toy, toy_llm, runs=toy / "one", settings=settings))
    two = trained_by_two(toy, toy_llm, launcher)
    assert one.read_result()["steps"] == two.read_result()["steps"] == 20
    assert two.read_result()["processes"] == 2
    losses = [losses_of(each) for each in (one, two)]
    assert len(losses[0]) == len(losses[1]) == 7
    expected, found = weights_of(one), weights_of(two)
    apart = torch.cat([(found[name] - each).flatten() for name, each in expected.items()]).norm()
    whole = torch.cat([each.flatten() for each in expected.values()]).norm()
    loss = max(abs(b / a - 1) for a, b in zip(*losses, strict=True))
    print(f"relative difference: losses {loss:.1e}, weights {apart / whole:.1e}")
    assert loss < 1e-6
    assert apart / whole < 1e-6
    tables = [pd.read_csv(each.predictions("test")) for each in (one, two)]
    assert (tables[0]["answer"] == tables[1]["answer"]).all()
    np.testing.assert_allclose(tables[0]["probability"], tables[1]["probability"], rtol=1e-4)
    names = [sorted(each.name for each in folder.path.iterdir()) for folder in (one, two)]
    assert names[0] == names[1]


def test_alone_nothing_is_said_to_anybody() -> None:
    alone = this_process()
    assert alone == Processes()
    assert alone.main
    assert (alone.share([1, 2, 3]), alone.gather(4), alone.broadcast(5)) == ([1, 2, 3], [4], 5)
    parameter = torch.nn.Parameter(torch.ones(2))
    alone.add_gradients([parameter])
    assert parameter.grad is None


def test_shares_cover_everything_once() -> None:
    rows = list(range(7))
    shares = [Processes(rank, 3).share(rows) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
