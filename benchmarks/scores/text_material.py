"""Material of the text benchmark: joined tables, n-grams, Chinese word vectors as an encoder.

Chinese text is encoded by word2vec vectors of words and of characters, which need no model hub.
They become an ordinary directory of transformers, which `egmf-extract --text hf:DIR` reads like any
other: a unigram tokenizer, whose most probable segmentation of a sentence is what Chinese
segmenters look for, and a model that is an embedding table and nothing else (GPT without layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import OpenAIGPTConfig, OpenAIGPTModel, PreTrainedTokenizerFast

UNKNOWN = "<unk>"
PUNCTUATION = ",.!?:;、。…"
MAX_TOKENS = 512


def joined_table(labels: Path, transcripts: Path) -> pd.DataFrame:
    """Join labels and transcripts by name; the columns are those of the manifest.

    Names are `{video}_{clip}`; a video's name may hold underscores itself.

    Raises:
        ValueError: a labelled row has no transcript, or a name occurs twice.
    """
    named = pd.read_csv(labels, dtype=str, keep_default_na=False)
    spoken = pd.read_csv(transcripts, dtype=str, keep_default_na=False)
    both = named.merge(spoken, on="name", how="left", validate="one_to_one")
    if lacking := int(both[["chinese", "english"]].isna().any(axis=1).sum()):
        raise ValueError(f"{transcripts}: {lacking} rows of {labels} have no transcript")
    place = both["name"].str.rsplit("_", n=1)
    return pd.DataFrame(
        {
            "id": both["name"],
            "split": both["split"],
            "score": both["val"],
            "chinese": both["chinese"],
            "english": both["english"],
            "group": place.str[0],
            "order": place.str[1].astype(int),
        }
    )


def read_vectors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read word2vec's binary or text form (`.vec`): a vector [dim] for each word."""
    content = path.read_bytes()
    place = content.index(b"\n") + 1
    count, dim = map(int, content[:place].split())
    vectors: dict[str, NDArray[np.float32]] = {}
    if path.suffix == ".vec":
        for line in content[place:].decode("utf-8").split("\n"):
            word, *numbers = line.rsplit(" ", dim)
            if len(numbers) == dim:
                vectors.setdefault(word, np.array(numbers, np.float32))
        return vectors
    for _ in range(count):
        end = content.index(b" ", place)
        word = content[place:end].decode("utf-8", "replace").strip()
        vectors.setdefault(word, np.frombuffer(content, "<f4", dim, end + 1))
        place = end + 1 + 4 * dim
    return vectors


def read_counts(path: Path) -> dict[str, int]:
    """Read a vocabulary of lines `word count tag`: how often each word occurs."""
    rows = (line.split(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def write_encoder(words: Path, counts: Path, characters: Path, folder: Path) -> None:
    """Write vectors of words and characters as one model directory of transformers.

    A token is a word or a character. Its row is the word's vector (zeros where there is none, as
    for the commonest words, which such vectors leave out) beside the mean of its characters'.
    """
    of_words, of_characters = read_vectors(words), read_vectors(characters)
    often = read_counts(counts)
    single = [each for each in of_characters if len(each) == 1]
    tokens = [each for each in dict.fromkeys((*of_words, *single, *PUNCTUATION)) if each.strip()]
    total = sum(often.values())
    pieces = [(UNKNOWN, 0.0)]
    pieces += [(each, log(max(1, often.get(each, 1)) / total)) for each in tokens]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN).save_pretrained(folder)

    width, beside = (len(next(iter(each.values()))) for each in (of_words, of_characters))
    values = np.zeros((len(pieces), width + beside), np.float32)
    for row, token in enumerate(tokens, start=1):
        if token in of_words:
            values[row, :width] = of_words[token]
        if known := [of_characters[each] for each in token if each in of_characters]:
            values[row, width:] = np.mean(known, axis=0)
    config = OpenAIGPTConfig(
        vocab_size=len(pieces), n_embd=width + beside, n_layer=0, n_head=1, n_positions=MAX_TOKENS
    )
    model = OpenAIGPTModel(config)
    model.tokens_embed.weight.data = torch.from_numpy(values)
    model.positions_embed.weight.data.zero_()
    model.save_pretrained(folder)


def write_ngrams(tables: Sequence[pd.DataFrame], column: str, dim: int, path: Path) -> None:
    """Write each transcript's character n-grams as one row of `dim` numbers (HDF5, by id).

    Latent semantic analysis: TF-IDF of 1 to 3 characters, reduced by singular value decomposition,
    both fitted on the training transcripts alone, without labels.
    """
    every = pd.concat(tables)
    counts = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2)
    known = counts.fit_transform(every.loc[every["split"] == "train", column])
    reduced = (
        TruncatedSVD(dim, random_state=0).fit(known).transform(counts.transform(every[column]))
    )
    with h5py.File(path, "w") as file:
        for name, row in zip(every["id"], reduced.astype(np.float32), strict=True):
            file[name] = row[np.newaxis]
