"""What cannot be loaded as a language model is said in one line, with the remedy."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from generate import backbone
from generate.backbone import LoraSettings, load_backbone, load_language_model
from generate.errors import GenerateError

CPU = torch.device("cpu")


@pytest.fixture
def copy(toy_llm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_llm, tmp_path / "copy"))


def refusal(source: Path | str) -> str:
    """Return what is said of a model that cannot be loaded."""
    with pytest.raises(GenerateError) as caught:
        load_backbone(str(source), device=CPU, dtype=torch.float32)
    said = str(caught.value)
    assert "\n" not in said
    return said


def change(path: Path, **fields: object) -> None:
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, **fields}))


def test_a_tokenizer_without_an_end(copy: Path) -> None:
    change(copy / "tokenizer_config.json", eos_token=None)
    assert "has no end-of-text token" in refusal(copy)


def test_a_tokenizer_without_words(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    assert "knows no words" in refusal(copy)


def test_weights_of_other_shapes(copy: Path) -> None:
    change(copy / "config.json", hidden_size=64)
    assert "its weights have other shapes than its config.json says" in refusal(copy)


def test_damaged_weights(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"no weights")
    assert "cannot load a language model" in refusal(copy)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "no such directory" in refusal(tmp_path / "nowhere")


def test_an_adapter_of_another_model(toy_llm: Path, tmp_path: Path) -> None:
    loaded = load_language_model(
        str(toy_llm), lora=LoraSettings(rank=2), device=CPU, dtype=torch.float32
    )
    loaded.save_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(GenerateError, match=r"the adapter cannot be loaded: .* --fresh"):
        load_language_model(
            str(toy_llm), lora=None, adapter=tmp_path, device=CPU, dtype=torch.float32
        )


def test_a_bare_model_has_no_adapter_to_save(toy_llm: Path, tmp_path: Path) -> None:
    bare = load_language_model(str(toy_llm), lora=None, device=CPU, dtype=torch.float32)
    bare.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_the_attention_is_not_what_a_config_names(copy: Path) -> None:
    """Trees and shared starts rest on it."""
    change(copy / "config.json", attn_implementation="eager")
    loaded = load_language_model(str(copy), lora=None, device=CPU, dtype=torch.float32)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert loaded.shares_prefix


@pytest.mark.parametrize(("device", "there"), [("cuda:1", True), ("cpu", False)])
def test_weights_go_to_a_gpu_and_not_by_way_of_memory(
    toy_llm: Path, monkeypatch: pytest.MonkeyPatch, device: str, there: bool
) -> None:
    asked: list[dict[str, Any]] = []

    def load(source: str, **options: Any) -> None:
        asked.append(options)
        raise RuntimeError("no further")

    monkeypatch.setattr(backbone, "_load", load)
    with pytest.raises(GenerateError, match="no further"):
        load_backbone(str(toy_llm), device=torch.device(device), dtype=torch.float32)
    assert asked == [
        {"dtype": torch.float32} | ({"device_map": {"": torch.device(device)}} if there else {})
    ]


def test_four_bits_are_nf4_summed_in_the_wanted_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is asked of bitsandbytes where there is a GPU; that it is done needs one."""
    device = torch.device("cuda", 0)
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    with pytest.raises(GenerateError, match="cuda without bitsandbytes"):
        backbone._four_bits(device, torch.bfloat16)
    monkeypatch.setattr(backbone, "find_spec", lambda name: types.SimpleNamespace(name=name))
    wanted = backbone._four_bits(device, torch.bfloat16)
    config = wanted["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
