"""What the paper's table costs with the preset `large`: disk, memory and hours, by arithmetic.

    python benchmarks/forecast.py [--tflops N]

N is what the GPU sustains in bf16, not its peak: about 40 % of the peak is usual (66 for an
RTX 4090, 125 for an A100, 400 for an H100). Nothing here is measured; operations are counted as two
a parameter and row (six in training with full gradients, four with LoRA, whose base weights need no
gradient), plus attention.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass

FRAMES_A_SECOND = 4
WHISPER_ROWS, WHISPER_WIDTH, WHISPER_LAYERS, WHISPER_PARAMETERS = 1500, 1280, 32, 637e6
VIT_ROWS, VIT_WIDTH, VIT_PARAMETERS = 257, 768, 304e6
TEXT_ROWS, TEXT_WIDTH, TEXT_PARAMETERS = 20, 1024, 303e6
PROMPT_TOKENS, LLM_PARAMETERS = 120, 7.6e9
EPOCHS, SEEDS = 20, 5


@dataclass(frozen=True)
class Release:
    """A dataset: utterances by split and the mean seconds of a clip.

    `released` counts the float32 values of an utterance where features and no media are released.
    """

    name: str
    train: int
    scored: int
    seconds: float
    media: str
    released: int = 0


RELEASES = (
    Release("MELD", 9989, 3719, 3.2, "11 GB packed, as much again unpacked"),
    Release(
        *("CHERMA", 17230, 11487, 0.0, "features, no media"),
        released=78 * 1024 + 150 * 1024 + 16 * 2048,
    ),
    Release("CMU-MOSEI", 16326, 6530, 7.3, "depends on the copy"),
    Release("CH-SIMS v2 (s)", 2722, 1681, 3.7, "depends on the copy"),
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


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description="Disk and hours of the paper's table, by arithmetic.")
    parser.add_argument("--tflops", type=float, default=66.0, help="sustained, in bf16")
    sustained = parser.parse_args().tflops * 1e12
    print("| dataset | media | cache, GB | extraction, h | training and scoring, 5 seeds, h |")
    print("|---|---|---:|---:|---:|")
    for each in RELEASES:
        clips = each.train + each.scored
        extraction = (
            clips * encoder_operations(each) / sustained / 3600 if not each.released else 0.0
        )
        token = 2 * LLM_PARAMETERS * PROMPT_TOKENS
        # An epoch trains on one split and scores another; the test split is scored once.
        operations = EPOCHS * (2 * token * each.train + token * each.scored / 2)
        hours = SEEDS * operations / sustained / 3600
        disk = clips * cache_bytes(each) / 1e9
        print(f"| {each.name} | {each.media} | {disk:.1f} | {extraction:.1f} | {hours:.0f} |")
    weights = 2 * LLM_PARAMETERS / 1e9
    print(f"\nWeights of the 7B model in bf16: {weights:.0f} GB of GPU memory, before activations.")


if __name__ == "__main__":
    main()
