from pathlib import Path

import numpy as np
import pytest
import torch

from extract.batches import Batches
from extract.clock import Clock
from extract.encoders.base import EncoderInfo, Prepared, Settings
from extract.encoders.registry import load_encoder, resolve_encoder
from extract.encoders.weights import Memo
from extract.errors import ExtractError
from extract.media import SAMPLE_RATE, Audio, Frames
from extract.tiny import make_text_encoder
from tests.helpers_media import tone
from tests.helpers_models import MAKERS, make_encoder_decoder, make_language_model, make_model

AUDIO = ("wav2vec2", "hubert", "wavlm", "wavlm-masked", "wav2vec2-bert")
VISUAL = ("vit", "dinov2", "clip", "clip-vision", "swin", "convnext", "videomae")
TEXTS = ["hello there", "the weather is fine today, isn't it?", "我今天很高兴", "no", "yes " * 20]
STORED = {"rtol": 1e-3, "atol": 2e-3}  # float16 has eleven bits


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in MAKERS:
        make_model(folder, name)
    make_text_encoder(folder / "bert", TEXTS * 4, dim=32, layers=5, max_tokens=64)
    make_language_model(folder, folder / "bert")
    make_encoder_decoder(folder, folder / "bert")
    return folder


def resolve(models: Path, modality: str, name: str) -> EncoderInfo:
    return resolve_encoder(modality, f"hf:{models / name}", Settings(), Memo(models / "memo.json"))


def encode(encoder, prepared: dict[str, Prepared]) -> dict[str, np.ndarray]:
    batches = Batches(encoder, Clock(), "float16")
    for name, one in prepared.items():
        batches.add(name, one)
    return {name: found.value for name, found in batches.finish().items()}


def sounds() -> list[Audio]:
    seconds = (0.5, 1.0, 0.93, 2.0, 3.1, 0.31, 1.3, 1.3, 0.11)
    return [Audio(0.3 + tone(s, 150 + 50 * i)) for i, s in enumerate(seconds)]  # off centre


def clips() -> list[Frames]:
    generator = np.random.default_rng(0)
    found = []
    for count in (1, 5, 8, 20, 3):
        pictures = [generator.integers(0, 255, (40, 56, 3), np.uint8) for _ in range(count)]
        times = np.arange(count, dtype=np.float32) / 4 + 0.125
        found.append(Frames(pictures, times))
    found[1].pictures[2] = found[1].pictures[1]  # on display at two instants
    return found


def media(name: str) -> list:
    return sounds() if name in AUDIO else clips() if name in VISUAL else list(TEXTS)


def modality_of(name: str) -> str:
    return "audio" if name in AUDIO else "visual" if name in VISUAL else "text"


@pytest.mark.parametrize("name", [*AUDIO, *VISUAL, "bert@last4", "causal", "t5"])
def test_features_do_not_depend_on_the_batch(models: Path, name: str) -> None:
    info = resolve(models, modality_of(name), name)
    encoder = load_encoder(info, "cpu")
    prepared = {str(n): encoder.prepare(one) for n, one in enumerate(media(name))}
    together = encode(encoder, prepared)
    backwards = encode(encoder, dict(reversed(prepared.items())))
    for key, one in prepared.items():
        alone = encode(encoder, {key: one})[key]
        assert alone.shape == (len(one.time), info.dim)
        assert np.isfinite(alone).all()
        np.testing.assert_array_equal(alone, together[key])
        np.testing.assert_array_equal(alone, backwards[key])
    means = np.stack([value.astype(np.float32).mean(axis=0) for value in together.values()])
    assert np.median(means.std(axis=0)) > 0.005  # different inputs, different rows


@pytest.mark.parametrize("name", AUDIO)
@pytest.mark.parametrize("layer", ["", "@2", "@last4"])
def test_audio_rows_equal_the_model_itself(models: Path, name: str, layer: str) -> None:
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(models / name)
    model = AutoModel.from_pretrained(models / name).eval()
    encoder = load_encoder(resolve(models, "audio", name + layer), "cpu")
    prepared = {str(n): encoder.prepare(one) for n, one in enumerate(sounds())}
    together = encode(encoder, prepared)
    for number, sound in enumerate(sounds()):
        inputs = extractor(sound.samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            output = model(**inputs, output_hidden_states=True)
        states = output.hidden_states
        expected = {
            "": output.last_hidden_state,
            "@2": states[2],
            "@last4": (states[-1] + states[-2] + states[-3] + states[-4]) / 4,
        }[layer][0].numpy()
        found = together[str(number)]
        if name == "wav2vec2-bert":  # it gives a masked row for the last frame that has no partner
            expected = expected[: int(inputs["attention_mask"].sum())]
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, **STORED)
        times = prepared[str(number)].time
        np.testing.assert_allclose(times, np.arange(len(found)) * 320 / SAMPLE_RATE, rtol=1e-6)


def test_audio_is_padded_only_where_the_model_knows_masks(models: Path) -> None:
    units = {}
    for name in ("wav2vec2", "hubert", "wavlm"):
        encoder = load_encoder(resolve(models, "audio", name), "cpu")
        units[name] = [encoder.prepare(sound).units[0].shape() for sound in sounds()[:4]]
    assert (
        units["wav2vec2"] == units["wavlm"] == [((8000,),), ((16000,),), ((14880,),), ((32000,),)]
    )
    assert units["hubert"] == [((n,), (n,)) for n in (16000, 16000, 16000, 32000)]


@pytest.mark.parametrize("name", VISUAL)
def test_visual_rows_equal_the_model_itself(models: Path, name: str) -> None:
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(models / name)
    model = AutoModel.from_pretrained(models / name).eval()
    info = resolve(models, "visual", name)
    encoder = load_encoder(info, "cpu")
    prepared = {str(n): encoder.prepare(one) for n, one in enumerate(clips())}
    together = encode(encoder, prepared)
    for number, clip in enumerate(clips()):
        with torch.inference_mode():
            if name == "videomae":
                expected = video_rows(processor, model, clip)
            else:
                pixels = processor(images=clip.pictures, return_tensors="pt")["pixel_values"]
                if name == "clip":
                    expected = model.get_image_features(pixel_values=pixels).pooler_output
                else:
                    output = model(pixel_values=pixels)
                    states = output.last_hidden_state
                    expected = {
                        "vit": states[:, 0],
                        "dinov2": states[:, 0],
                        "clip-vision": output.pooler_output,
                        "swin": states.mean(dim=1),
                        "convnext": states.flatten(2).mean(dim=2),
                    }[name]
        np.testing.assert_allclose(together[str(number)], expected.numpy(), **STORED)
        if name != "videomae":
            np.testing.assert_array_equal(prepared[str(number)].time, clip.times)
    assert info.rows_per_second == (2.0 if name == "videomae" else 4.0)


def video_rows(processor, model, clip: Frames) -> torch.Tensor:
    """Windows of eight frames; a row is the mean over the sixteen patches of two frames."""
    rows = []
    for begin in range(0, len(clip.pictures), 8):
        window = clip.pictures[begin : begin + 8]
        meant = (len(window) + 1) // 2
        window = window + [window[-1]] * (8 - len(window))
        states = model(**processor([window], return_tensors="pt")).last_hidden_state[0]
        rows.append(states.reshape(4, 16, -1).mean(dim=1)[:meant])
    return torch.cat(rows)


def test_rows_of_videomae_lie_amid_their_frames(models: Path) -> None:
    encoder = load_encoder(resolve(models, "visual", "videomae"), "cpu")
    frames = clips()[1]
    assert encoder.prepare(frames).time.tolist() == [0.25, 0.75, 1.125]


def test_a_layer_of_a_picture_model(models: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    info = resolve(models, "visual", "vit@3")
    assert (info.slug, info.preprocessing["layer"]) == ("vit-layer3", 3)
    encoder = load_encoder(info, "cpu")
    frames = clips()[1]
    pixels = AutoImageProcessor.from_pretrained(models / "vit")(
        images=frames.pictures, return_tensors="pt"
    )
    model = AutoModel.from_pretrained(models / "vit").eval()
    with torch.inference_mode():
        expected = model(**pixels, output_hidden_states=True).hidden_states[3][:, 0].numpy()
    np.testing.assert_allclose(
        encode(encoder, {"a": encoder.prepare(frames)})["a"], expected, **STORED
    )


@pytest.mark.parametrize("name", ["causal", "t5", "bert@last4"])
def test_text_rows_of_every_kind_equal_the_model_itself(models: Path, name: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = models / name.partition("@")[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    model = model.get_encoder() if name == "t5" else model
    encoder = load_encoder(resolve(models, "text", name), "cpu")
    together = encode(encoder, {text: encoder.prepare(text) for text in TEXTS[:4]})
    for text, found in together.items():
        tokens = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            output = model(**tokens, output_hidden_states=True)
        expected = output.last_hidden_state
        if name == "bert@last4":
            expected = torch.stack(output.hidden_states[-4:]).mean(dim=0)
        np.testing.assert_allclose(found, expected[0].numpy(), **STORED)


@pytest.mark.parametrize(
    ("modality", "spec", "message"),
    [
        ("audio", "hf:{models}/vit", "is not a speech encoder such as wav2vec2"),
        ("audio", "hf:{models}/wavlm@bucket", "unknown option @bucket .known here: @N or @last4"),
        ("audio", "hf:{models}/wavlm@6", "there is no layer 6; the model has 5"),
        ("visual", "hf:{models}/wavlm", "names no image_size"),
        ("visual", "hf:{models}/clip@2", "its rows come from a projection"),
        ("text", "hf:{models}/bert@lats4", "unknown option @lats4"),
        ("text", "hf:{models}/clip", "names no hidden_size: not a text encoder"),
    ],
)
def test_wrong_specs_are_named(models: Path, modality: str, spec: str, message: str) -> None:
    spec = spec.replace("{models}", str(models))
    with pytest.raises(ExtractError, match=message):
        resolve_encoder(modality, spec, Settings(), Memo(models / "memo.json"))


def test_a_model_without_its_preprocessor_or_of_another_rate_is_named(
    models: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    shutil.copytree(models / "wavlm", tmp_path / "wavlm")
    path = tmp_path / "wavlm" / "preprocessor_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "sampling_rate": 8000}))
    with pytest.raises(ExtractError, match="wants 8000 Hz, but audio is read at 16000"):
        resolve(tmp_path, "audio", "wavlm")
    path.unlink()
    with pytest.raises(ExtractError, match=r"holds no preprocessor_config\.json"):
        resolve(tmp_path, "audio", "wavlm")
