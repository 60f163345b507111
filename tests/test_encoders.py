import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extract.batches import Batches
from extract.clock import Clock
from extract.encoders.base import EncoderInfo, Prepared, Settings, Unit
from extract.encoders.registry import load_encoder, resolve_encoder
from extract.encoders.weights import Memo
from extract.errors import ExtractError
from extract.features import fingerprint_of
from extract.media import Audio, Frames
from extract.tiny import make_audio_encoder, make_text_encoder, make_visual_encoder
from tests.helpers_media import tone

TEXTS = ["hello there", "the weather is fine today, isn't it?", "我今天很高兴", "no", "yes " * 40]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_text_encoder(folder / "bert", TEXTS * 4, dim=64, max_tokens=64)
    make_audio_encoder(folder / "whisper", window_seconds=2.0)
    make_visual_encoder(folder / "clip")
    return folder


def specs(models: Path) -> dict[str, str]:
    return {
        "text": f"hf:{models / 'bert'}",
        "audio": f"whisper:{models / 'whisper' / 'whisper.pt'}",
        "visual": f"open_clip:local-dir:{models / 'clip'}",
    }


def resolve(models: Path, modality: str, settings: Settings | None = None) -> EncoderInfo:
    memo = Memo(models / ".digests.json")
    return resolve_encoder(modality, specs(models)[modality], settings or Settings(), memo)


def pictures(count: int, seed: int = 0) -> Frames:
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(count)]
    return Frames(drawn, np.arange(count, dtype=np.float32) / 4 + 0.125)


def media(modality: str) -> list[object]:
    if modality == "text":
        return list(TEXTS)
    if modality == "audio":
        seconds = (0.5, 1.0, 1.99, 2.0, 3.1, 4.7, 0.31, 1.5, 1.6, 1.7)
        return [Audio(tone(s, 150 + 50 * i)) for i, s in enumerate(seconds)]
    return [pictures(count, count) for count in (1, 5, 8, 30, 3)]


def encode(encoder, prepared: dict[str, Prepared]) -> dict[str, np.ndarray]:
    batches = Batches(encoder, Clock(), "float16")
    for name, one in prepared.items():
        batches.add(name, one)
    return {name: found.value for name, found in batches.finish().items()}


@pytest.mark.parametrize("modality", ["text", "audio", "visual"])
def test_features_do_not_depend_on_the_batch(models: Path, modality: str) -> None:
    encoder = load_encoder(resolve(models, modality), "cpu")
    prepared = {str(n): encoder.prepare(one) for n, one in enumerate(media(modality))}
    together = encode(encoder, prepared)
    backwards = encode(encoder, dict(reversed(prepared.items())))
    for name, one in prepared.items():
        alone = encode(encoder, {name: one})[name]
        assert alone.dtype == np.float16
        assert len(alone) == len(one.time)
        np.testing.assert_array_equal(alone, together[name])
        np.testing.assert_array_equal(alone, backwards[name])


@pytest.mark.parametrize("modality", ["text", "audio", "visual"])
def test_different_inputs_give_clearly_different_features(models: Path, modality: str) -> None:
    info = resolve(models, modality)
    encoder = load_encoder(info, "cpu")
    prepared = {str(n): encoder.prepare(one) for n, one in enumerate(media(modality))}
    found = encode(encoder, prepared)
    assert {value.shape[1] for value in found.values()} == {info.dim}
    first_rows = np.stack([value[0] for value in found.values()]).astype(np.float32)
    last_rows = np.stack([value[-1] for value in found.values()]).astype(np.float32)
    varied = first_rows if modality == "visual" else last_rows
    spread = varied.std(axis=0) / np.abs(varied).mean()
    assert np.median(spread) > 0.05


def test_text_rows_equal_the_model_itself(models: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = load_encoder(resolve(models, "text"), "cpu")
    tokenizer = AutoTokenizer.from_pretrained(models / "bert")
    model = AutoModel.from_pretrained(models / "bert").eval()
    for text in TEXTS[:4]:
        prepared = encoder.prepare(text)
        tokens = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**tokens).last_hidden_state[0].numpy()
        found = encode(encoder, {"a": prepared})["a"]
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-3)
        np.testing.assert_array_equal(prepared.time, np.arange(len(expected)))


def test_text_layer_is_that_hidden_state(models: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    memo = Memo(models / ".digests.json")
    spec = f"{specs(models)['text']}@1"
    info = resolve_encoder("text", spec, Settings(), memo)
    assert (info.slug, info.preprocessing["layer"]) == ("bert-layer1", 1)
    found = encode(load_encoder(info, "cpu"), {"a": load_encoder(info, "cpu").prepare("hello")})
    tokens = AutoTokenizer.from_pretrained(models / "bert")("hello", return_tensors="pt")
    model = AutoModel.from_pretrained(models / "bert").eval()
    with torch.inference_mode():
        expected = model(**tokens, output_hidden_states=True).hidden_states[1][0].numpy()
    np.testing.assert_allclose(found["a"], expected, atol=2e-3)
    with pytest.raises(ExtractError, match="there is no layer 3; the model has 2"):
        resolve_encoder("text", f"{specs(models)['text']}@3", Settings(), memo)


def test_long_text_is_cut_and_flagged(models: Path) -> None:
    encoder = load_encoder(resolve(models, "text"), "cpu")
    prepared = encoder.prepare("a b c d e f g " * 40)
    assert (len(prepared.time), prepared.flags) == (64, ("cut_to_64_tokens",))
    assert encode(encoder, {"a": prepared})["a"].shape == (64, 64)


def test_audio_rows_equal_whispers_own_encoder(models: Path) -> None:
    import whisper

    model = whisper.load_model(str(models / "whisper" / "whisper.pt"))
    encoder = load_encoder(resolve(models, "audio"), "cpu")
    samples = tone(1.51, 300)
    padded = whisper.pad_or_trim(samples, 32_000)
    with torch.inference_mode():
        expected = model.embed_audio(whisper.log_mel_spectrogram(padded)[None])[0].numpy()
    prepared = encoder.prepare(Audio(samples))
    found = encode(encoder, {"a": prepared})["a"]
    assert len(found) == 76  # 1.51 s at fifty rows a second, the last one begun
    np.testing.assert_allclose(found, expected[:76], atol=2e-3)
    np.testing.assert_allclose(prepared.time[:3], [0, 0.02, 0.04])


def test_long_audio_is_encoded_in_successive_windows(models: Path) -> None:
    import whisper

    model = whisper.load_model(str(models / "whisper" / "whisper.pt"))
    encoder = load_encoder(resolve(models, "audio"), "cpu")
    samples = np.concatenate([tone(2.0, 300), 0.1 * tone(1.0, 700)])
    mel = whisper.log_mel_spectrogram(samples, padding=16_000)
    with torch.inference_mode():
        windows = model.embed_audio(torch.stack([mel[:, :200], mel[:, 200:]])).numpy()
    found = encode(encoder, {"a": encoder.prepare(Audio(samples))})["a"]
    assert len(found) == 150
    np.testing.assert_allclose(found, np.concatenate([windows[0], windows[1][:50]]), atol=2e-3)


def test_quiet_utterance_is_not_changed_by_a_loud_neighbour(models: Path) -> None:
    encoder = load_encoder(resolve(models, "audio"), "cpu")
    quiet = encoder.prepare(Audio(0.001 * tone(1.0, 300)))
    loud = encoder.prepare(Audio(tone(1.0, 500)))
    alone = encode(encoder, {"quiet": quiet})["quiet"]
    np.testing.assert_array_equal(alone, encode(encoder, {"l": loud, "quiet": quiet})["quiet"])


def test_visual_rows_equal_encode_image(models: Path) -> None:
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{models / 'clip'}")
    model.eval()
    frames = pictures(5)
    batch = torch.stack([preprocess(Image.fromarray(one)) for one in frames.pictures])
    with torch.inference_mode():
        expected = model.encode_image(batch).numpy()
    encoder = load_encoder(resolve(models, "visual"), "cpu")
    prepared = encoder.prepare(frames)
    np.testing.assert_allclose(encode(encoder, {"a": prepared})["a"], expected, atol=2e-3)
    np.testing.assert_array_equal(prepared.time, frames.times)


def test_fingerprint_follows_values_and_not_places(models: Path, tmp_path: Path) -> None:
    before = fingerprint_of(resolve(models, "visual").ingredients())
    shutil.copytree(models / "clip", tmp_path / "elsewhere")
    memo = Memo(tmp_path / "memo.json")
    moved = f"open_clip:local-dir:{tmp_path / 'elsewhere'}"
    there = resolve_encoder("visual", moved, Settings(), memo)
    assert fingerprint_of(there.ingredients()) == before
    assert there.random_weights

    for settings in (Settings(fps=2.0), Settings(max_seconds=10), Settings(dtype="float16")):
        assert fingerprint_of(resolve(models, "visual", settings).ingredients()) != before
    config = tmp_path / "elsewhere" / "open_clip_config.json"
    changed = json.loads(config.read_text())
    changed["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    config.write_text(json.dumps(changed))
    there = resolve_encoder("visual", moved, Settings(), memo)
    assert fingerprint_of(there.ingredients()) != before


def test_text_fingerprint_ignores_what_only_media_settings_change(models: Path) -> None:
    one = resolve(models, "text")
    other = resolve(models, "text", Settings(fps=1.0, max_seconds=5.0))
    assert fingerprint_of(one.ingredients()) == fingerprint_of(other.ingredients())


def test_half_precision_computes_close_to_full(models: Path) -> None:
    for modality in ("text", "audio", "visual"):
        info = resolve(models, modality)
        full, half = (
            load_encoder(replace(info, dtype=dtype), "cpu") for dtype in ("float32", "bfloat16")
        )
        medium = media(modality)[1]
        found = encode(half, {"a": half.prepare(medium)})["a"].astype(np.float32)
        expected = encode(full, {"a": full.prepare(medium)})["a"].astype(np.float32)
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_memo_sees_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = Memo(tmp_path / "memo.json").digest(path)
    assert Memo(tmp_path / "memo.json").digest(path) == first
    path.write_bytes(b"three")
    assert Memo(tmp_path / "memo.json").digest(path) != first
    (tmp_path / "memo.json").write_text("{")
    assert Memo(tmp_path / "memo.json").digest(path)


@pytest.mark.parametrize(
    ("modality", "spec", "message"),
    [
        ("text", "bert", "is not a known spec; use hf:ID_OR_DIR"),
        ("audio", "open_clip:x", "is not a known spec; use whisper:NAME_OR_PT"),
        ("text", "hf:", "is not a known spec"),
        ("text", "hf:/no/such/place", "no directory /no/such/place"),
        ("text", "hf:{tmp}", "is not a model directory: it holds no config.json"),
        ("audio", "whisper:{tmp}/no.pt", "no checkpoint .*no.pt; check the path"),
        ("audio", "whisper:bass", "no Whisper model of that name"),
        ("audio", "whisper:{tmp}/text.pt", "text.pt is not a Whisper checkpoint"),
        ("visual", "open_clip:local-dir:{tmp}", "it holds no open_clip_config.json"),
        ("visual", "open_clip:ViT-Z/x", "knows no architecture ViT-Z"),
        ("visual", "open_clip:ViT-B-32/x", "no weights 'x' for ViT-B-32"),
    ],
)
def test_wrong_specs_are_named(tmp_path: Path, modality: str, spec: str, message: str) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    spec = spec.replace("{tmp}", str(tmp_path))
    with pytest.raises(ExtractError, match=message):
        resolve_encoder(modality, spec, Settings(), Memo(tmp_path / "memo.json"))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"dims": Hostile(), "model_state_dict": {}}, tmp_path / "hostile.pt")
    with pytest.raises(ExtractError, match="is not a Whisper checkpoint"):
        resolve_encoder(
            "audio", f"whisper:{tmp_path / 'hostile.pt'}", Settings(), Memo(tmp_path / "memo.json")
        )
    assert not (tmp_path / "ran").exists()


def test_a_directory_whose_weights_do_not_fit_is_named(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "bert", tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").write_bytes(b"no tensors")
    memo = Memo(tmp_path / "memo.json")
    info = resolve_encoder("text", f"hf:{tmp_path / 'bert'}", Settings(), memo)
    with pytest.raises(ExtractError, match="does not load as a transformers model"):
        load_encoder(info, "cpu")


def test_weights_that_are_missing_are_not_made_up(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(models / "bert", tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    memo = Memo(tmp_path / "memo.json")
    info = resolve_encoder("text", f"hf:{tmp_path / 'bert'}", Settings(), memo)
    with pytest.raises(ExtractError, match="lacks 1 of the model's weights"):
        load_encoder(info, "cpu")


def test_tiny_models_are_the_same_every_time(tmp_path: Path) -> None:
    first = make_audio_encoder(tmp_path / "a" / "w", window_seconds=1.0)
    second = make_audio_encoder(tmp_path / "b" / "w", window_seconds=1.0)
    one, two = (torch.load(path, weights_only=True) for path in (first, second))
    for name, value in one["model_state_dict"].items():
        torch.testing.assert_close(value, two["model_state_dict"][name], rtol=0, atol=0)


def test_units_of_different_shapes_are_never_batched_together(models: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.batches: list[list[tuple[int, ...]]] = []

        def batch_size(self, unit: Unit) -> int:
            return 3

        def prepare(self, medium: object) -> Prepared:
            raise AssertionError

        def encode(self, units: list[Unit]) -> list[np.ndarray]:
            self.batches.append([unit.arrays[0].shape for unit in units])
            return [np.full((unit.rows, 2), unit.arrays[0][0], np.float32) for unit in units]

    recorder = Recorder()
    batches = Batches(recorder, Clock(), "float16")
    for number in range(7):
        unit = Unit((np.full(2 + number % 2, number),), rows=1)
        batches.add(str(number), Prepared([unit, unit], np.zeros(2, np.float32)))
    found = batches.finish()
    assert all(len(batch) == 3 and len(set(batch)) == 1 for batch in recorder.batches)
    assert {name: one.value.tolist() for name, one in found.items()} == {
        str(number): [[number, number]] * 2 for number in range(7)
    }
