"""Small models of transformers with random weights, saved the way published ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZES = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2}
INNER = {"intermediate_size": 64}
CONVOLUTIONS = {
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def _wav2vec2() -> tuple[Any, Any]:
    """One that is never padded, as the published base models are."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    model = Wav2Vec2Model(Wav2Vec2Config(**SIZES, **INNER, **CONVOLUTIONS))
    return model, Wav2Vec2FeatureExtractor(return_attention_mask=False)


def _hubert() -> tuple[Any, Any]:
    """One that wants a mask, as the published large models do."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    sizes = {**SIZES, **INNER, **CONVOLUTIONS, "feat_extract_norm": "layer"}
    config = HubertConfig(**sizes, do_stable_layer_norm=True, conv_bias=True)
    return HubertModel(config), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _wavlm() -> tuple[Any, Any]:
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    model = WavLMModel(WavLMConfig(**SIZES, **INNER, **CONVOLUTIONS, num_buckets=20))
    return model, Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _wavlm_masked() -> tuple[Any, Any]:
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    sizes = {**SIZES, **INNER, **CONVOLUTIONS, "feat_extract_norm": "layer", "conv_bias": True}
    config = WavLMConfig(**sizes, do_stable_layer_norm=True, num_buckets=20)
    return WavLMModel(config), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _wav2vec2_bert() -> tuple[Any, Any]:
    """One that begins with log-mel instead of samples."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    config = Wav2Vec2BertConfig(**SIZES, **INNER, conv_depthwise_kernel_size=5)
    return Wav2Vec2BertModel(config), SeamlessM4TFeatureExtractor(feature_size=80)


def _vit() -> tuple[Any, Any]:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    model = ViTModel(ViTConfig(**SIZES, **INNER, image_size=32, patch_size=8))
    return model, ViTImageProcessor(size={"height": 32, "width": 32})


def _dinov2() -> tuple[Any, Any]:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    model = Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2, image_size=32, patch_size=8))
    size, crop = {"shortest_edge": 36}, {"height": 32, "width": 32}
    return model, BitImageProcessor(size=size, crop_size=crop)


def _clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tower = {**SIZES, **INNER}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        text_config={**tower, "vocab_size": 50, "max_position_embeddings": 8},
        projection_dim=24,
    )
    size, crop = {"shortest_edge": 32}, {"height": 32, "width": 32}
    return CLIPModel(config), CLIPImageProcessor(size=size, crop_size=crop)


def _clip_vision() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(**SIZES, **INNER, image_size=32, patch_size=8)
    size, crop = {"shortest_edge": 32}, {"height": 32, "width": 32}
    return CLIPVisionModel(config), CLIPImageProcessor(size=size, crop_size=crop)


def _swin() -> tuple[Any, Any]:
    """One without a class token."""
    from transformers import SwinConfig, SwinModel, ViTImageProcessor

    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    return SwinModel(config), ViTImageProcessor(size={"height": 32, "width": 32})


def _convnext() -> tuple[Any, Any]:
    """One of convolutions, whose output is a map."""
    from transformers import ConvNextConfig, ConvNextModel, ViTImageProcessor

    config = ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, image_size=32)
    return ConvNextModel(config), ViTImageProcessor(size={"height": 32, "width": 32})


def _videomae() -> tuple[Any, Any]:
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    config = VideoMAEConfig(**SIZES, **INNER, image_size=32, patch_size=8, num_frames=8)
    size, crop = {"shortest_edge": 32}, {"height": 32, "width": 32}
    return VideoMAEModel(config), VideoMAEImageProcessor(size=size, crop_size=crop)


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "wav2vec2": _wav2vec2,
    "hubert": _hubert,
    "wavlm": _wavlm,
    "wavlm-masked": _wavlm_masked,
    "wav2vec2-bert": _wav2vec2_bert,
    "vit": _vit,
    "dinov2": _dinov2,
    "clip": _clip,
    "clip-vision": _clip_vision,
    "swin": _swin,
    "convnext": _convnext,
    "videomae": _videomae,
}


def make_model(folder: Path, name: str) -> Path:
    """Save a small model of one family and its preprocessor; return its directory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model, preprocessor = MAKERS[name]()
        for parameter in model.parameters():
            if parameter.dim() > 1:  # wide enough for different inputs to give different rows
                torch.nn.init.normal_(parameter, std=0.15)
    path = folder / name
    model.save_pretrained(path)
    preprocessor.save_pretrained(path)
    return path


def make_language_model(folder: Path, tokenizer: Path) -> Path:
    """Save a small causal language model that shares a tokenizer; return its directory."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    wrapped = AutoTokenizer.from_pretrained(tokenizer)
    config = Qwen2Config(**SIZES, **INNER, num_key_value_heads=2, vocab_size=len(wrapped))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder / "causal")
    wrapped.save_pretrained(folder / "causal")
    return folder / "causal"


def make_encoder_decoder(folder: Path, tokenizer: Path) -> Path:
    """Save a small T5 that shares a tokenizer; return its directory."""
    from transformers import AutoTokenizer, T5Config, T5Model

    wrapped = AutoTokenizer.from_pretrained(tokenizer)
    config = T5Config(
        vocab_size=len(wrapped),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = T5Model(config)
    model.save_pretrained(folder / "t5")
    wrapped.save_pretrained(folder / "t5")
    return folder / "t5"
