"""Settings of stage two: every knob of training, its default and its effect.

Of the paper (arXiv 2601.07565) only the abstract was available, so these are documented choices,
not claims. `--set key=value` changes any of them; a run stores them resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import PipelineError
from pipeline.manifest import nearest
from pipeline.yaml_files import explain

ABLATIONS = (
    "local",
    "semantic",
    "global",
    "gate",
    "gate-modalities",
    "gate-experts",
    "pseudo-tokens",
    "lora",
)
"""Parts that can be left out: an expert, the gate or one of its levels (a plain mean instead), what
the fusion tells the language model, the adapter. Modalities and context have flags of their own."""

OF_EGMF = frozenset(ABLATIONS) - {"pseudo-tokens", "lora"}
"""Ablations that no other fusion knows."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class TrainSettings(BaseModel):
    """Settings of one training run.

    Attributes:
        dim: Width of the experts.
        match_size: Change `dim` so that the fusion, whichever it is and whatever it leaves out, has
            about as many parameters as whole EGMF at the `dim` given here.
        heads: Attention heads of the semantic and global experts.
        layers: Transformer layers of the global expert.
        kernels: Widths, in rows, of the local expert's convolutions (odd).
        rank: Rank of the semantic expert's bilinear term.
        pseudo_tokens: Pseudo tokens in the prompt.
        dropout: In the experts and the projector.
        gate_temperature: Above one the gate is flatter.
        lora_rank: Rank of LoRA on every linear layer of the language model.
        lora_alpha: LoRA's scale; the update is multiplied by alpha / rank.
        lora_kind: Plain ("lora"), with the length of every weight's rows trained by itself ("dora",
            arXiv 2402.09353), or scaled by alpha / sqrt(rank) ("rslora", arXiv 2312.03732).
        lora_dropout: Dropout before LoRA.
        gradient_checkpointing: Compute the language model's layers again for the gradient instead
            of keeping what they came to: less memory, about a third more time.
        dtype: Precision of the frozen weights; "auto", the one setting that is stored as it is, is
            bfloat16 on a GPU and float32 elsewhere. What is trained is always float32.
        load_in_4bit: Quantise the frozen weights to four bits (NF4, QLoRA, arXiv 2305.14314); needs
            an NVIDIA GPU and bitsandbytes.
        shard_llm: Cut the frozen weights over the processes that train together (FSDP2): each keeps
            its part and puts a layer together when it runs it, which saves memory and takes time.
            The embeddings, and what trains, stay whole in each.
        pool: Rows averaged into one before the experts, by modality (1 where not named). Whisper
            writes 50 rows a second; 4 leaves 12.5.
        epochs: Passes over the training split at most.
        pretrain_epochs: With --fusion emo-caps, passes over unlabelled and training rows, without
            labels, before the first step of training.
        select: Score the weights of the epoch with the best validation score ("best"), or train
            for all `epochs` and score the last weights ("last"), which needs no validation split.
        patience: With "best", stop after this many epochs without a better validation score.
        batch_size: Utterances a step.
        max_batch_tokens: Padded tokens that the language model is given at once: a larger step is
            cut into passes whose gradients add up to those of the whole, so that a big batch fits
            a small GPU (0: all at once).
        length_window: Shuffled utterances are sorted by length (prompt and feature rows) within
            windows of this many batches, so that a batch needs little padding (0: not sorted).
        joint_temperature: With --joint, a dataset of n utterances is sampled in proportion to
            n^(1 / temperature); above one, small datasets are seen more often.
        fusion_lr: Peak learning rate of experts, gate and projector.
        lora_lr: Peak learning rate of the adapter.
        warmup: Share of all steps in which the rate rises, before the cosine.
        class_weights: Let every label weigh as much as the others in the loss of the answers
            ("balanced": its items weigh the inverse of its frequency), or every item ("none").
        label_smoothing: Share of the target that is spread evenly over all permitted answers.
        weight_decay: AdamW's decay, on matrices alone.
        clip: Largest gradient norm.
        max_skipped: A step whose loss is not finite is skipped; after this many in a row the run
            stops.
        modality_dropout: Share of utterances that lose modalities in training, so that any subset
            works later.
        modalities_dropped: How many such an utterance loses at most; it always keeps one.
        modality_noise: Share of utterances one of whose modalities is replaced by noise, so that
            the gate learns to turn a broken stream down.
        feature_noise: By modality (0 where not named), how much of a random other row of the batch
            training adds to every standardised row, for features that know the training labels.
        balance_weight: Weight of the loss that keeps every expert in use.
        entropy_weight: Weight of the loss on weights that stake all on one expert or modality.
        reliability_weight: Weight of the loss on the gate's attention to noise.
        auxiliary_weight: Weight of the auxiliary head on the fused vector (0 = none).
        max_prompt_tokens: A longer prompt loses its oldest turns, then the end of its transcript.
        decision: Numbers are the expectation over the grid, which correlates best, the median,
            which has the smallest mean error, or the most likely number ("argmax");
            or the model writes labels and numbers freely ("generate"), and what cannot be read is
            counted. Labels are otherwise always the most probable one.
        eval_batch_size: Utterances scored at once.
        log_to: Also write the log for TensorBoard, into the run's folder ("tensorboard"; "auto"
            where it is installed), for Weights & Biases ("wandb"), or for neither ("none").
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: Positive = 128
    match_size: bool = False
    heads: Positive = 4
    layers: Positive = 2
    kernels: tuple[Positive, ...] = (1, 3, 5)
    rank: Positive = 16
    pseudo_tokens: Positive = 4
    dropout: Share = 0.1
    gate_temperature: Rate = 1.0
    lora_rank: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.05
    lora_kind: Literal["lora", "dora", "rslora"] = "lora"
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    load_in_4bit: bool = False
    shard_llm: bool = False
    pool: dict[str, Positive] = {"audio": 4}
    epochs: Positive = 20
    pretrain_epochs: Annotated[int, Field(ge=0)] = 0
    select: Literal["best", "last"] = "best"
    patience: Positive = 6
    batch_size: Positive = 16
    max_batch_tokens: Annotated[int, Field(ge=0)] = 0
    length_window: Annotated[int, Field(ge=0)] = 0
    joint_temperature: Annotated[float, Field(ge=1.0)] = 2.0
    fusion_lr: Rate = 5e-4
    lora_lr: Rate = 2e-4
    warmup: Share = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    weight_decay: Weight = 0.01
    clip: Rate = 1.0
    max_skipped: Positive = 10
    modality_dropout: Share = 0.15
    modalities_dropped: Positive = 1
    modality_noise: Share = 0.15
    feature_noise: dict[str, Weight] = {}
    balance_weight: Weight = 0.01
    entropy_weight: Weight = 0.0
    reliability_weight: Weight = 0.3
    auxiliary_weight: Weight = 0.5
    max_prompt_tokens: Positive = 512
    decision: Literal["expectation", "median", "argmax", "generate"] = "expectation"
    eval_batch_size: Positive = 64
    log_to: Literal["auto", "none", "tensorboard", "wandb"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if even := [width for width in self.kernels if width % 2 == 0]:
            raise ValueError(f"kernels must be odd, got {even[0]}")
        if self.shard_llm and (self.load_in_4bit or self.lora_kind == "dora"):
            other = "load_in_4bit" if self.load_in_4bit else "lora_kind=dora"
            raise ValueError(f"shard_llm does not go with {other}, which needs whole weights")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "dim": 64,
        "batch_size": 32,
        "epochs": 12,
        "lora_dropout": 0.0,
        "fusion_lr": 2e-3,
        "lora_lr": 2e-3,
    },
    "base": {},
    "large": {"lora_lr": 1e-4},
}


def resolve_settings(
    preset: str, overrides: Iterable[str], chosen: Mapping[str, Any] | None = None
) -> TrainSettings:
    """Combine a preset, settings of a file, and `key=value` overrides, whose values are YAML.

    Raises:
        PipelineError: an override is malformed, unknown or out of range.
    """
    values: dict[str, Any] = {**PRESETS[preset], **(chosen or {})}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise PipelineError(f"--set {override}: expected key=value, such as epochs=5")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise PipelineError(f"--set {override}: {text!r} is no value") from error
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        known = TrainSettings.model_fields
        if unknown := [key for key in values if key not in known]:
            raise PipelineError(
                f"--set {unknown[0]}: no such setting{nearest(unknown[0], known)}; "
                f"known: {', '.join(known)}"
            ) from error
        raise PipelineError(f"--set: {explain(error)}") from error
