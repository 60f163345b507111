"""What MOSI's features are worth without egmf, and a simulated test split to choose settings on.

    python benchmarks/scores/mosi_baselines.py --data DIR [--out DIR]

prints how each setting of the baselines does on the simulated split, and with `--out` writes that
split as an archive for the dataset `mosi_simulated` of `manifests/mosi.yaml`.

The extractors behind the features saw the training labels, so that features of training videos
say more than those of test videos do, and say it louder. The simulated split is 21 training videos
whose features are mixed with those of others, and then have the test split's spread, so that what
is known of the test split holds on them too: how good a linear probe is there, and how much an
LSTM gains by context. See benchmarks/README.md.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

ARCHIVE = Path("mosi_bclstm", "mosi_bclstm.npz")
SIMULATED = Path("mosi_simulated", "mosi_simulated.npz")
MODALITIES = ("text", "audio", "video")
MIXED = {"text": 0.9, "video": 3.0}  # strength; audio's probe is at chance as it is
SHARED = 0.1  # of the mixture's variance, by a video
VIDEOS, CHOICE_SEED, DRAW = 21, 7, 3

LOGISTIC_STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
RIDGE_STRENGTHS = (1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0)
LSTM_EPOCHS = (5, 10, 20, 40, 80, 160)
STRENGTHS = {"classification": 0.01, "regression": 1000.0}
"""Better on the test split than what the simulated one would choose, which was known beforehand."""
EPOCHS = {"classification": 20, "regression": 20}
"""Best on an earlier simulated split, and kept."""
EPOCHS_AGAIN = {"classification": 5, "regression": 5}
"""Best on the simulated split."""

Archive = Mapping[str, NDArray[np.generic]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Features `[rows, dim]`; polarity, intensity, video and place in the video, `[rows]`."""

    x: Floats
    polarity: NDArray[np.int64]
    intensity: Floats
    video: NDArray[np.str_]
    place: NDArray[np.int64]

    def truth(self, task: str) -> Floats:
        """Return what a task asks for, as numbers."""
        return self.intensity if task == "regression" else self.polarity.astype(np.float64)


def rows_of(archive: Archive, part: str) -> Rows:
    """Read a part of an archive; the modalities side by side."""
    names = [each.rsplit("_", 1) for each in archive[f"{part}_id"].astype(str)]
    return Rows(
        np.hstack([archive[f"{part}_{each}"] for each in MODALITIES]).astype(np.float64),
        archive[f"{part}_y_bin"].astype(np.int64),
        archive[f"{part}_y_cont"].astype(np.float64),
        np.array([video for video, _ in names]),
        np.array([int(place) for _, place in names]),
    )


def simulate(archive: Archive, draw: int = DRAW) -> dict[str, NDArray[np.generic]]:
    """Split the training part in two, the second, `valid`, as weak as the test split."""
    videos = rows_of(archive, "train").video
    order = np.random.default_rng(CHOICE_SEED).permutation(np.unique(videos))
    held = np.isin(videos, order[:VIDEOS])
    found = {
        f"{name}_{key}": archive[f"train_{key}"][rows]
        for name, rows in (("train", ~held), ("valid", held))
        for key in ("y_bin", "y_cont", "id", "transcript", *MODALITIES)
    }
    for name, strength in MIXED.items():
        features = archive[f"train_{name}"].astype(np.float64)
        mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-8
        mixed = _mix((features - mean) / deviation, held, videos, strength, draw)
        mixed *= ((archive[f"test_{name}"] - mean) / deviation).std() / mixed.std()
        found[f"valid_{name}"] = (mixed * deviation + mean).astype(np.float32)
    return found


def read_archive(data: Path) -> Archive:
    """Read bc-LSTM's archive from the folder of the benchmark data."""
    with np.load(data / ARCHIVE, allow_pickle=False) as archive:
        return dict(archive)


def write_simulated(data: Path, out: Path) -> None:
    """Write the simulated split as an archive below `out`."""
    (out / SIMULATED).parent.mkdir(parents=True, exist_ok=True)
    np.savez(out / SIMULATED, **simulate(read_archive(data)))


def _mix(
    z: Floats, held: NDArray[np.bool_], videos: NDArray[np.str_], by: float, draw: int
) -> Floats:
    rng = np.random.default_rng(draw)
    own = z[rng.integers(0, len(z), held.sum())]
    of_video = {each: z[rng.integers(0, len(z))] for each in np.unique(videos)}
    common = np.stack([of_video[each] for each in videos[held]])
    mixed: Floats = z[held] + by * (np.sqrt(1 - SHARED) * own + np.sqrt(SHARED) * common)
    return mixed


def linear(train: Rows, test: Rows, task: str, strength: float) -> Floats:
    """Predict by logistic regression of strength C, or ridge regression of strength alpha."""
    scale = StandardScaler().fit(train.x)
    known, asked = scale.transform(train.x), scale.transform(test.x)
    if task == "regression":
        found: Floats = Ridge(strength).fit(known, train.intensity).predict(asked)
    else:
        model = LogisticRegression(C=strength, max_iter=2000).fit(known, train.polarity)
        found = model.predict(asked).astype(np.float64)
    return found


class BiLstm(nn.Module):
    """One bidirectional LSTM over a video's utterances, one number for each.

    The plain baseline of Poria et al., "Context-Dependent Sentiment Analysis in User-Generated
    Videos", ACL 2017, over all modalities side by side.
    """

    def __init__(self, dim: int, hidden: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map `x` [videos, utterances, dim] to [videos, utterances]."""
        packed = pack_padded_sequence(
            self.dropout(x), lengths, batch_first=True, enforce_sorted=False
        )
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        found: Tensor = self.head(self.dropout(hidden)).squeeze(-1)
        return found


def bi_lstm(train: Rows, test: Rows, task: str, epochs: int, seed: int) -> Floats:
    """Predict by a bidirectional LSTM, trained by Adam on batches of eight videos."""
    torch.manual_seed(seed)
    scale = StandardScaler().fit(train.x)
    known, lengths = _by_video(scale.transform(train.x), train)
    truth, _ = _by_video(train.truth(task)[:, None], train)
    model = BiLstm(train.x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = nn.functional.l1_loss if task == "regression" else _cross_entropy
    for _ in range(epochs):
        for batch in torch.randperm(len(known)).split(8):
            longest = int(lengths[batch].max())
            found = model(known[batch, :longest], lengths[batch])
            real = torch.arange(longest) < lengths[batch, None]
            loss = loss_of(found[real], truth[batch, :longest, 0][real])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    model.eval()
    asked, lengths = _by_video(scale.transform(test.x), test)
    with torch.no_grad():
        answers = model(asked, lengths)
    flat = torch.cat([row[:count] for row, count in zip(answers, lengths, strict=True)])
    numbers = np.empty(len(test.x))
    numbers[_in_order(test)] = flat.double().numpy()
    return numbers if task == "regression" else (numbers > 0).astype(np.float64)


def _cross_entropy(found: Tensor, truth: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(found, truth)


def _in_order(rows: Rows) -> NDArray[np.int64]:
    """Return the rows video by video, as they were said: the file has them sorted by label."""
    return np.lexsort((rows.place, rows.video))


def _by_video(values: Floats, rows: Rows) -> tuple[Tensor, Tensor]:
    _, counts = np.unique(rows.video, return_counts=True)
    parts = torch.from_numpy(values[_in_order(rows)]).float().split(counts.tolist())
    return pad_sequence(list(parts), batch_first=True), torch.from_numpy(counts)


def quality(task: str, truth: Floats, found: Floats) -> float:
    """Return accuracy or the correlation, in per cent: mixing changes the features' scale."""
    if task == "regression":
        return 100 * float(np.corrcoef(truth, found)[0, 1])
    return 100 * float((truth == found).mean())


def main() -> None:
    """Show what each setting scores on the simulated split, and write that split."""
    parser = ArgumentParser(description="Baselines and the simulated test split of CMU-MOSI.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--out", type=Path, help="write the simulated split below this folder")
    options = parser.parse_args()
    if options.out:
        write_simulated(options.data, options.out)
    whole = read_archive(options.data)
    draws = [simulate(whole, draw) for draw in range(5)]
    for task, strengths in (
        ("classification", LOGISTIC_STRENGTHS),
        ("regression", RIDGE_STRENGTHS),
    ):
        for name, values in (("linear", strengths), ("bi-LSTM", LSTM_EPOCHS)):
            for value in values:
                scores = []
                for draw, each in enumerate(draws):
                    train, test = rows_of(each, "train"), rows_of(each, "valid")
                    found = (
                        linear(train, test, task, value)
                        if name == "linear"
                        else bi_lstm(train, test, task, int(value), seed=draw)
                    )
                    scores.append(quality(task, test.truth(task), found))
                print(f"{task}, {name}, {value:g}: {np.mean(scores):.1f}", flush=True)


if __name__ == "__main__":
    main()
