"""What is wrong with a model, a run or the disk is one plain line, and so is an interrupt."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.commands.report import main as report_main
from tests.helpers_bad_input import MINE, Ended, call, extract, small_disk, specs, train


@pytest.fixture
def place(bad_corpus: Path) -> Path:
    return bad_corpus


@pytest.fixture(scope="module")
def trained(bad_corpus: Path) -> Path:
    """Train one run, for reading only."""
    ended = train(bad_corpus)
    assert ended.code == 0, ended.err
    return bad_corpus / "runs"


def llm_of(place: Path, folder: Path) -> Path:
    shutil.copytree(place / "cache" / "models" / "tiny" / "llm", folder)
    return folder


def test_what_is_no_language_model_is_one_line(place: Path, trained: Path, tmp_path: Path) -> None:
    def complaint(llm: object) -> str:
        return train(place, "--runs", tmp_path / "runs", "--llm", llm).complaint()

    assert f"{tmp_path} is not a language model: it holds no config.json" in complaint(tmp_path)
    assert "/none is not a language model: no such directory" in complaint("/none")
    llm = llm_of(place, tmp_path / "llm")
    weights = llm / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"cannot load a language model from {llm}: Error while" in complaint(llm)
    weights.write_bytes(whole)
    (llm / "tokenizer.json").write_text("{")
    assert f"cannot load a language model from {llm}" in complaint(llm)
    (llm / "tokenizer.json").unlink()
    (llm / "tokenizer_config.json").unlink()
    assert f"the tokenizer of {llm}" in complaint(llm)
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | {"model_type": "nonsense"}))
    assert f"cannot load a language model from {llm}" in complaint(llm)


@pytest.fixture
def run(trained: Path, place: Path) -> Iterator[Path]:
    """Give the one run's folder, to be damaged, and put it back."""
    (folder,) = trained.glob("mine/*/*")
    kept = place / "kept"
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    kept.rename(folder)


def report(place: Path, out: Path) -> Ended:
    return call(report_main, "--runs", place / "runs", "--out", out, "--format", "md")


def test_a_broken_result_is_one_line(place: Path, run: Path, tmp_path: Path) -> None:
    assert train(place).code == 0  # finished already
    for content in (b'{"format": 1,', b"", b"[]", b"\xff\xfe"):
        (run / "result.json").write_bytes(content)
        assert "result.json" in report(place, tmp_path).complaint()
        complaint = train(place).complaint()
        assert str(run / "result.json") in complaint
        assert complaint.endswith("train the run again with --fresh")


def test_an_unfinished_run_is_named_and_its_damage_too(
    place: Path, run: Path, tmp_path: Path
) -> None:
    (run / "result.json").unlink()
    assert "mine/egmf/seed-1111: no result.json" in report(place, tmp_path).complaint()
    assert f"{run}: holds an unfinished run; go on with --resume" in train(place).complaint()
    assert "holds a run with other settings" in train(place, "--set", "dim=32").complaint()
    for name, said in (
        ("checkpoint/state.pt", f"{run}/checkpoint: damaged ("),
        ("best/fusion.safetensors", f"{run}/best: the saved model cannot be read ("),
        ("best/adapter_model.safetensors", f"{run}/best: the adapter cannot be loaded: "),
    ):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[:50])
        complaint = train(place, "--resume").complaint()
        assert said in complaint
        assert "--fresh" in complaint
        (run / name).write_bytes(whole)
    assert train(place, "--resume").code == 0


def test_no_runs_is_one_line(tmp_path: Path) -> None:
    assert "holds no run; train one" in call(report_main, "--runs", tmp_path).complaint()
    assert "does not exist" in call(report_main, "--runs", tmp_path / "none").complaint()


def test_a_place_that_cannot_be_written_is_one_line(place: Path, trained: Path) -> None:
    file = place / "mine.yaml"
    assert f"{file}" in extract(place, "--cache", file).complaint()
    assert f"{file}" in train(place, "--runs", file).complaint()
    assert f"{file}" in call(report_main, "--runs", trained, "--out", file).complaint()


def test_a_full_disk_is_one_line_and_what_is_done_stays(place: Path, tmp_path: Path) -> None:
    options = ("--cache", tmp_path / "disk", *specs(place), "--modalities", "text,audio")

    def size_of(modality: str) -> int:
        (shard,) = (place / "cache" / "mine" / modality).glob("*/*.h5")
        return shard.stat().st_size >> 10

    try:
        # Room for the table, the text and some of the audio.
        with small_disk(tmp_path / "disk", size_of("text") + size_of("audio") // 2 + 32) as disk:
            complaint = extract(place, *options, "--workers", 1).complaint()
            assert f"{disk}/mine/audio/" in complaint
            assert "00000.h5: cannot be written: no space is left on the disk; free" in complaint
            assert not list(disk.rglob("*.tmp"))
            plan = json.loads(extract(place, *options, "--dry-run", "--json").out)[0]["modalities"]
            assert [plan[name]["shards_done"] for name in ("text", "audio")] == [1, 0]
        with small_disk(tmp_path / "disk", 2000) as disk:
            complaint = train(place, "--runs", disk).complaint()
            assert "/seed-1111/" in complaint
            assert "No space left on device" in complaint
            assert not list(disk.rglob("*.tmp"))
    except PermissionError as error:
        pytest.skip(str(error))


def test_ctrl_c_is_one_line_and_the_run_goes_on(place: Path, tmp_path: Path) -> None:
    options = ("--runs", tmp_path, "--epochs", 12, "--set", "patience=99")
    given = ["--from-cache", "--manifest", place / "mine.yaml", "--cache", place / "cache"]
    given += [*MINE, "--preset", "tiny", "--device", "cpu", "--quiet", *options]
    log = tmp_path / "mine" / "egmf" / "seed-1111" / "log.jsonl"
    # A process of its own, which hears interrupts: those that a shell starts beside it do not.
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline.commands.train", *map(str, given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while running.poll() is None and not (log.with_name("checkpoint") / "progress.json").is_file():
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=500)
    assert (running.returncode, out) == (130, "")
    assert err == "stopped; to go on, run the same command with --resume\n"
    assert train(place, *options, "--resume").code == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == list(range(1, 13))
