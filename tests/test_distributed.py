"""Two processes on the CPU against one: the same losses, weights and answers; one writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from pipeline.distributed import Processes, this_process
from pipeline.errors import PipelineError
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


def trained_by_two(
    toy: Path, llm: Path, launcher: str, changed: Sequence[str] = SETTINGS
) -> RunFolder:
    """Train with the command, in two processes."""
    command = [
        *(sys.executable, "-m", *LAUNCH[launcher], "-m", "pipeline.commands.train"),
        *("--from-cache", "--quiet", "--device", "cpu", "--preset", "tiny", "--llm", str(llm)),
        *("--dataset", "toy", "--manifest", str(toy / "toy.yaml"), "--cache", str(toy / "cache")),
        *("--runs", str(toy / "two"), "--seed", "1"),
        *(part for each in changed for part in ("--set", each)),
    ]
    subprocess.run(command, check=True, cwd=ROOT, timeout=550)
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
    lines = [line for line in folder.read_log() if line["kind"] in ("step", "epoch")]
    return [line.get("loss", line.get("train_loss")) for line in lines]


@pytest.mark.parametrize(
    "launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)]
)
def test_two_processes_equal_one(toy: Path, toy_llm: Path, launcher: str) -> None:
    settings = resolve_settings("tiny", SETTINGS)
    one = run(request(toy, toy_llm, runs=toy / "one", settings=settings))
    two = trained_by_two(toy, toy_llm, launcher)
    assert one.read_result()["steps"] == two.read_result()["steps"] == 20
    assert len(losses_of(one)) == 7
    assert_equal(one, two)
    names = [sorted(each.name for each in folder.path.iterdir()) for folder in (one, two)]
    assert names[0] == names[1]


def test_a_model_cut_over_two_processes_equals_a_whole_one(toy: Path, toy_llm: Path) -> None:
    # Passes of few tokens, and one question at a time: seldom as many here as there.
    common = (*SETTINGS, "epochs=2", "max_batch_tokens=900", "label_smoothing=0.1")
    settings = resolve_settings("tiny", common)
    one = run(request(toy, toy_llm, runs=toy / "one", settings=settings))
    two = trained_by_two(toy, toy_llm, "torchrun", [*common, "shard_llm=true"])
    assert two.read_config()["settings"]["shard_llm"]
    assert_equal(one, two)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toy_llm), two.best)
    loaded = {key for key in adapted.state_dict() if "lora_" in key}
    assert len(loaded) == len(load_file(two.best / "adapter_model.safetensors")) > 0


def test_each_process_holds_its_part_of_a_cut_model(toy_llm: Path) -> None:
    command = [sys.executable, "-m", *LAUNCH["torchrun"], "-m", "tests.helpers_sharded"]
    done = subprocess.run(
        [*command, str(toy_llm)], check=True, cwd=ROOT, timeout=500, stdout=subprocess.PIPE
    )
    reports = json.loads(done.stdout)
    cut = [each["held"] - each["embedding"] for each in reports]
    assert sum(cut) == reports[0]["whole"] - reports[0]["embedding"]
    assert max(cut) / sum(cut) < 0.51
    assert [each["apart"] for each in reports] == [0.0, 0.0]


@pytest.mark.parametrize("other", ["load_in_4bit=true", "lora_kind=dora"])
def test_what_needs_whole_weights_does_not_go_with_a_cut_model(other: str) -> None:
    with pytest.raises(PipelineError, match=f"shard_llm does not go with {other[:9]}"):
        resolve_settings("tiny", ["shard_llm=true", other])


def assert_equal(one: RunFolder, two: RunFolder) -> None:
    """Check that a run of two processes came to what one process came to."""
    assert two.read_result()["processes"] == 2
    losses = [losses_of(each) for each in (one, two)]
    assert len(losses[0]) == len(losses[1])
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
