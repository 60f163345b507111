"""What training says before it starts, and where its log goes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import PipelineError
from pipeline.experiment import run_experiment
from pipeline.forecast import Forecast, _Kept, _Token
from pipeline.runs import RunFolder
from pipeline.settings import TrainSettings
from pipeline.trackers import scalars_of, tracking
from tests.helpers_toy import no_progress, toy_features, toy_table, write_feature_set
from tests.test_training import Killed, request, run, settings_of

ADAPTER = "adapter_model.safetensors"


def test_what_autograd_keeps_is_counted_once_and_given_back() -> None:
    """Two products keep their inputs: x, twice, and the weights, which are parameters."""
    model = nn.Sequential(nn.Linear(8, 8, bias=False))
    kept: Any = _Kept(model)  # type: ignore[arg-type]
    x = torch.ones(100, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, _Token.tensor_of):
        loss = (model(x) + model(x)).sum()
    assert kept.most == kept.now() == 100 * 8 * 4
    torch.autograd.backward(loss)
    del loss
    assert kept.now() == 0
    assert kept.most == 3200


def test_a_step_that_breaks_off_is_let_go_of() -> None:
    """As one does for which memory runs out before its backward pass."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Softmax(dim=1))
    kept: Any = _Kept(model)  # type: ignore[arg-type]

    def step() -> None:
        model(torch.ones(100, 8))
        raise torch.OutOfMemoryError

    hooks = torch.autograd.graph.saved_tensors_hooks(kept.keep, _Token.tensor_of)
    with hooks, pytest.raises(torch.OutOfMemoryError):
        step()
    assert kept.most > 0
    assert kept.now() == 0


def test_an_interrupt_amid_the_backward_pass_is_not_lost() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(300)])
    kept: Any = _Kept(model)  # type: ignore[arg-type]
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, _Token.tensor_of):
        loss = model(torch.ones(500, 64)).sum()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def backward_with_an_alarm() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        torch.autograd.backward(loss)  # takes ten times as long

    try:
        with pytest.raises(KeyboardInterrupt):
            backward_with_an_alarm()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_line() -> None:
    line = Forecast(3 * 2**30, 0.5).line(100)
    assert line == "about 3 GiB, and 50 s an epoch without validation"
    assert "about 0.25 GiB, and 8 min" in Forecast(2**28, 5.0).line(100)
    assert Forecast(2**30, 5.0, whole=False).line(100).startswith("at least 1 GiB, and 8 min")


def test_training_says_what_it_will_take_and_is_not_changed_by_it(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    wanted = request(toy, toy_llm, settings=settings_of(epochs=1))
    (folder,) = run_experiment(wanted, no_progress, said.append)
    (line,) = [each for each in said if "parameters train" in each]
    assert "on 64 utterances of toy (text, audio, visual); about 0.0" in line
    assert line.endswith("s an epoch without validation")
    counted = folder.read_result()["parameters"]
    assert f"{counted['trainable']:,} of {counted['total']:,} parameters train" in line
    adapter = sum(each.numel() for each in load_file(folder.best / ADAPTER).values())
    assert counted["trainable"] == counted["fusion"] + adapter
    plain = Forecast(0, 0.0)
    monkeypatch.setattr("pipeline.fitting.forecast", lambda *_: plain)
    other = run(request(toy, toy_llm, settings=settings_of(epochs=1), experiment="untold"))
    name = "best/fusion.safetensors"
    assert (folder.path / name).read_bytes() == (other.path / name).read_bytes()


def events(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = loading.EventAccumulator(str(folder.path / "tensorboard"))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_shows_the_log_also_of_a_resumed_run(toy: Path, toy_llm: Path) -> None:
    pytest.importorskip("tensorboard")
    wanted = settings_of(epochs=3, patience=9)
    with pytest.raises(Killed):
        run(request(toy, toy_llm, settings=wanted), stop_after=6)
    folder = run(request(toy, toy_llm, settings=wanted, resume=True))
    lines = [json.loads(line) for line in folder.log.read_text().splitlines()]
    shown = events(folder)
    expected = [(each["step"], each["train_loss"]) for each in lines if each["kind"] == "epoch"]
    assert [step for step, _ in expected] == [4, 8, 12]
    assert shown["train/epoch_loss"] == [(s, pytest.approx(v, rel=1e-6)) for s, v in expected]
    assert [step for step, _ in shown["train/loss"]] == [10]
    assert [step for step, _ in shown["valid/weighted_f1"]] == [4, 8, 12]


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.trackers.find_spec", lambda _: None)
    folder = RunFolder(tmp_path)
    with pytest.raises(PipelineError, match="log_to=wandb: not installed; pip install wandb"):
        tracking(folder, settings_of(log_to="wandb"), 0).__enter__()
    with tracking(folder, TrainSettings(), 0) as track:
        track({"step": 1, "loss": 2.0})
    assert not list(tmp_path.iterdir())


def test_scalars_of_a_line() -> None:
    line = {"kind": "epoch", "step": 3, "train_loss": 0.5, "best": True, "selection": None}
    joint = {"a": {"mae": 1.0}, "b": {"mae": 2}}
    assert scalars_of({**line, "valid": joint}) == {
        "train/epoch_loss": 0.5,
        "valid/a/mae": 1.0,
        "valid/b/mae": 2.0,
    }


@pytest.mark.parametrize("setting", ["pool", "feature_noise"])
def test_a_setting_of_an_unknown_modality_is_refused(
    toy: Path, toy_llm: Path, setting: str
) -> None:
    wanted = settings_of(**{setting: {"adio": 2}})
    with pytest.raises(PipelineError, match=rf"--set {setting}: no modality 'adio'.*'audio'"):
        run(request(toy, toy_llm, settings=wanted))
    assert not (toy / "runs").exists()


def test_a_setting_may_name_a_modality_of_the_cache_that_a_run_leaves_out(
    toy: Path, toy_llm: Path
) -> None:
    table = toy_table()
    frames = toy_features(table, "audio")
    write_feature_set(toy / "cache", "frames", table["id"].tolist(), frames)
    wanted = settings_of(pool={"frames": 2}, epochs=1)
    done = run(request(toy, toy_llm, modalities=("audio",), settings=wanted))
    assert done.read_config()["modalities"] == ["audio"]
