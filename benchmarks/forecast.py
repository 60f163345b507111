"""What the paper's table costs with the preset `large`: disk, memory and hours, by arithmetic.

    python benchmarks/forecast.py [--tflops N]

N is what the GPU sustains in bf16, not its peak: about 40 % of the peak is usual (66 for an
RTX 4090, 125 for an A100, 400 for an H100). Nothing here is measured. Operations are counted as two
a parameter and row (four in training with LoRA, whose base weights need no gradient, six with
checkpointing), plus attention. Memory is that of a training pass over 4,096 tokens with
checkpointing. Decoding of media is not counted.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass

FRAMES_A_SECOND = 4
WHISPER_ROWS, WHISPER_WIDTH, WHISPER_LAYERS, WHISPER_PARAMETERS = 1500, 1280, 32, 637e6
VIT_ROWS, VIT_WIDTH, VIT_PARAMETERS = 257, 768, 304e6
TEXT_ROWS, TEXT_WIDTH, TEXT_PARAMETERS = 20, 1024, 303e6
PROMPT_TOKENS, LLM_PARAMETERS = 120, 7.6e9
LLM_WIDTH, LLM_INNER, LLM_KEYS, LLM_LAYERS, VOCABULARY = 3584, 18_944, 512, 28, 152_064
RANK, TOKENS, ANSWER_TOKENS = 16, 4096, 256
EPOCHS, SEEDS = 20, 5
FINAL_PASSES = 10  # over the test split: as it is, without each subset, noise in each modality
ENCODER_WEIGHTS = 2.2e9 + 3.1e9 + 1.7e9  # bytes of text, audio, visual as they are published


@dataclass(frozen=True)
class Release:
    """A dataset: utterances by split and the mean seconds of a clip.

    `released` counts the float32 values of an utterance where features and no media are released.
    """

    name: str
    train: int
    valid: int
    test: int
    answers: int  # tokens of all permitted answers, as a tree
    seconds: float
    media: str
    released: int = 0


RELEASES = (
    Release("MELD", 9989, 1109, 2610, 14, 3.2, "11 GB packed, as much again unpacked"),
    Release(
        *("CHERMA", 17230, 5743, 5744, 14, 0.0, "features, no media"),
        released=78 * 1024 + 150 * 1024 + 16 * 2048,
    ),
    Release("CMU-MOSEI", 16326, 1871, 4659, 80, 7.3, "depends on the copy"),
    Release("CH-SIMS v2 (s)", 2722, 647, 1034, 30, 3.7, "depends on the copy"),
)


def encoder_operations(release: Release) -> float:
    """Count the operations of all three encoders for one clip."""
    attention = 4 * WHISPER_LAYERS * WHISPER_ROWS**2 * WHISPER_WIDTH
    audio = 2 * WHISPER_PARAMETERS * WHISPER_ROWS + attention
    visual = 2 * VIT_PARAMETERS * VIT_ROWS * FRAMES_A_SECOND * release.seconds
    return audio + visual + 2 * TEXT_PARAMETERS * TEXT_ROWS


def cache_bytes(release: Release) -> float:
    """Count the bytes of one utterance's features: float16, or as they were released."""
    if release.released:
        return 4 * release.released
    audio = 50 * release.seconds * WHISPER_WIDTH
    visual = FRAMES_A_SECOND * release.seconds * VIT_WIDTH
    return 2 * (audio + visual + TEXT_ROWS * TEXT_WIDTH)


def model_operations(release: Release) -> float:
    """Count the operations of training and scoring one seed."""
    token = 2 * LLM_PARAMETERS
    trained = EPOCHS * release.train * PROMPT_TOKENS
    scored = (EPOCHS + 1) * release.valid + FINAL_PASSES * release.test
    return token * (3 * trained + scored * (PROMPT_TOKENS + release.answers))


def training_memory() -> dict[str, float]:
    """Return the bytes of a training pass over `TOKENS` tokens, by what takes them."""
    width, inner, keys = LLM_WIDTH, LLM_INNER, LLM_KEYS
    adapted = RANK * LLM_LAYERS * (2 * 2 * width + 2 * (width + keys) + 3 * (width + inner))
    layer = TOKENS * (10 * width + 6 * inner)  # values that one layer keeps while it is gone back
    return {
        "frozen weights, bf16": 2 * LLM_PARAMETERS,
        "adapter, its gradient and AdamW's moments, float32": 16 * adapted,
        "layers' inputs, bf16": 2 * LLM_LAYERS * TOKENS * width,
        "one layer at a time, bf16": 2 * layer,
        "logits of the answers and their gradient, float32": 8 * ANSWER_TOKENS * VOCABULARY,
    }


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description="Disk and hours of the paper's table, by arithmetic.")
    parser.add_argument("--tflops", type=float, default=66.0, help="sustained, in bf16")
    sustained = parser.parse_args().tflops * 1e12
    print("| dataset | media | cache, GB | extraction, h | training and scoring, 5 seeds, h |")
    print("|---|---|---:|---:|---:|")
    for each in RELEASES:
        clips = each.train + each.valid + each.test
        encoding = 0.0 if each.released else clips * encoder_operations(each)
        hours = [every / sustained / 3600 for every in (encoding, SEEDS * model_operations(each))]
        disk = clips * cache_bytes(each) / 1e9
        print(f"| {each.name} | {each.media} | {disk:.1f} | {hours[0]:.1f} | {hours[1]:.0f} |")
    print("\nGPU memory of training, GB:")
    parts = training_memory()
    for name, size in parts.items():
        print(f"- {name}: {size / 1e9:.1f}")
    print(f"- together: {sum(parts.values()) / 1e9:.0f}")
    weights = ENCODER_WEIGHTS + 2 * LLM_PARAMETERS
    print(f"\nDisk for the weights of encoders and language model, GB: {weights / 1e9:.0f}")


if __name__ == "__main__":
    main()
