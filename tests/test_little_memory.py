"""Too little memory for training is said in one line, and the run goes on with smaller passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from extract.errors import is_out_of_memory
from pipeline import objective
from pipeline.commands.train import main
from tests.helpers_bad_input import Ended, call
from tests.test_resume_kills import command, folder_in

FITS = 600  # padded tokens: less than a batch of 16 has
EXABYTES = 1 << 60


def test_a_run_that_met_too_little_memory_goes_on_in_smaller_passes(
    toy: Path, toy_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_loss, folder = objective._answer_loss, folder_in(toy / "runs")

    def answer_loss_in_little_memory(language: Any, items: Any, pseudo: Any, *rest: Any) -> Any:
        longest = max(prompt.length(pseudo.shape[1]) for prompt in items.prompts)
        if folder.checkpoint.is_dir() and longest * len(items.prompts) > FITS:
            torch.empty(EXABYTES)
        return answer_loss(language, items, pseudo, *rest)

    def train(*more: str) -> Ended:
        return call(main, *command(toy, toy_llm, toy / "runs", 3)[3:], *more)

    monkeypatch.setattr(objective, "_answer_loss", answer_loss_in_little_memory)
    for _ in range(2):
        complaint = train().complaint()
        assert complaint.startswith("error: out of memory (")
        assert "allocate" in complaint
        assert "; go on with --resume and --set max_batch_tokens=4096" in complaint
    assert "holds a run with other settings" in train("--set", "batch_size=8").complaint()
    smaller = ("--set", f"max_batch_tokens={FITS}", "--set", "eval_batch_size=8")
    assert train(*smaller).code == 0
    assert folder.read_config()["settings"]["max_batch_tokens"] == FITS
    lines = [json.loads(line) for line in folder.log.read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (MemoryError("Unable to allocate 8.00 EiB for an array"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_too_little_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
