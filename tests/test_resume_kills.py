"""A training process that is killed, wherever it is, goes on to the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.commands.train import main
from pipeline.runs import RunFolder

SHORT, LONG = 2, 10
SETTINGS = (
    "dim=16", "heads=2", "layers=1", "batch_size=16", "fusion_lr=0.01", "lora_lr=0.01",
    "lora_dropout=0.1", "patience=100",
)  # fmt: skip


def command(toy: Path, llm: Path, runs: Path, epochs: int) -> list[str]:
    return [
        *(sys.executable, "-m", "pipeline.commands.train", "--from-cache", "--quiet"),
        *("--dataset", "toy", "--manifest", str(toy / "toy.yaml"), "--cache", str(toy / "cache")),
        *("--runs", str(runs), "--preset", "tiny", "--llm", str(llm), "--seed", "1"),
        *("--device", "cpu", "--epochs", str(epochs), "--resume"),
        *(part for each in SETTINGS for part in ("--set", each)),
    ]


def run_here(arguments: list[str]) -> None:
    """Run the command to its end in this process, which has the libraries loaded."""
    sys.argv = ["egmf-train", *arguments[3:]]
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        arguments, start_new_session=True, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL
    )


def folder_in(runs: Path, experiment: str = "egmf") -> RunFolder:
    return RunFolder(runs / "toy" / experiment / "seed-1")


def epochs_done(folder: RunFolder) -> int:
    try:
        return int(json.loads((folder.checkpoint / "progress.json").read_text())["epoch"])
    except (OSError, ValueError):  # none yet, or it is being replaced
        return 0


def same_tensors(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        pairs = [(first[key], second.get(key)) for key in first]
        return first.keys() == second.keys() and all(same_tensors(*pair) for pair in pairs)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same_tensors, first, second))
    return first == second


def assert_same_run(found: RunFolder, expected: RunFolder) -> None:
    """Compare kept weights, checkpoint and predictions bit for bit."""
    files = [f"best/{name}" for name in ("adapter_model.safetensors", "fusion.safetensors")]
    for name in [*files, "predictions-valid.csv", "predictions-test.csv"]:
        assert (found.path / name).read_bytes() == (expected.path / name).read_bytes(), name
    states = [
        torch.load(each.checkpoint / "state.pt", weights_only=True) for each in (found, expected)
    ]
    assert same_tensors(*states)
    lines = [json.loads(line) for line in found.log.read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if line["kind"] == "epoch"]
    assert epochs == list(range(1, epochs_done(expected) + 1))
    left = sorted(each.name for each in found.path.iterdir() if each.suffix in (".tmp", ".old"))
    assert left == []


@pytest.mark.parametrize(
    "kills", [SHORT, pytest.param(LONG, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_random_kills_of_the_command(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    epochs = 2 * kills + 2  # each attempt may well finish two
    undisturbed, killed = (command(toy, toy_llm, toy / each, epochs) for each in ("one", "two"))
    monkeypatch.setattr(sys, "argv", [])
    run_here(undisturbed)
    folder, done = folder_in(toy / "two"), 0
    last = json.loads(folder_in(toy / "one").log.read_text().splitlines()[-1])
    an_epoch = last["seconds"] / epochs
    to_first_epoch = 0.0
    generator = random.Random(kills)
    for number in range(kills):
        began = time.monotonic()
        process = start(*killed)
        # Most of a short run is its imports, where a kill shows little: only one falls anywhere.
        anywhere = began + generator.uniform(0, to_first_epoch) if number == 1 else float("inf")
        while epochs_done(folder) <= done and process.poll() is None:
            if time.monotonic() > anywhere:
                break
            time.sleep(0.005)
        else:
            to_first_epoch = to_first_epoch or time.monotonic() - began
            time.sleep(generator.uniform(0, an_epoch))
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = epochs_done(folder)
    assert done >= kills - 1
    run_here(killed)
    assert_same_run(folder, folder_in(toy / "one"))


DIE = '''
"""Train in a forked process that dies at a point of publishing, then in one that goes on."""
import os, signal, sys
from pathlib import Path
import tests.test_training
from tests.test_resume_kills import KILLED_EPOCH, train_here
toy, llm = map(Path, sys.argv[1:3])
rename, write_bytes = Path.rename, Path.write_bytes

def die_at(point):
    saved = 0

    def now(name):
        if saved == KILLED_EPOCH and name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def renaming(self, target):
        now(f"before {self.suffix or self.name} -> {Path(target).name}")
        moved = rename(self, target)
        now(f"after {self.suffix or self.name} -> {Path(target).name}")
        return moved

    def writing(self, content):
        nonlocal saved
        if self.name == "state.pt":
            saved += 1
            now("before state.pt")
            if saved == KILLED_EPOCH and point == "half of state.pt":
                write_bytes(self, bytes(content)[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        return write_bytes(self, content)

    Path.rename, Path.write_bytes = renaming, writing

for number, point in enumerate([None, *sys.argv[3:]]):
    for dies in (True, False) if point else (False,):
        child = os.fork()
        if not child:
            if dies:
                die_at(point)
            train_here(toy, llm, toy / str(number))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        expected = -signal.SIGKILL if dies else 0
        assert os.waitstatus_to_exitcode(status) == expected, (point, dies, status)
'''
KILLED_EPOCH = 2
POINTS = (
    "before state.pt",
    "half of state.pt",
    "before checkpoint -> checkpoint.old",
    "before .tmp -> checkpoint",
    "after .tmp -> checkpoint",
)


def train_here(toy: Path, llm: Path, runs: Path) -> None:
    from tests.test_training import request, run, settings_of

    settings = settings_of(epochs=2, patience=100)
    run(request(toy, llm, runs=runs, settings=settings, modalities=("audio",), resume=True))


def test_death_at_each_point_of_publishing(toy: Path, toy_llm: Path) -> None:
    """One process imports the libraries; every run is a fork of it and dies by SIGKILL."""
    assert start(sys.executable, "-c", DIE, str(toy), str(toy_llm), *POINTS).wait(timeout=550) == 0
    for number in range(1, len(POINTS) + 1):
        assert_same_run(*(folder_in(toy / str(each), "egmf-audio") for each in (number, 0)))
