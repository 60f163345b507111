"""What is drawn: each function takes figures read from runs and returns one drawing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.metrics import Reliability
from pipeline.report.ceilings import AgainstCeiling
from pipeline.report.figures import (
    ACCENT,
    EXPERT_SERIES,
    GRID,
    INK,
    MUTED,
    SERIES,
    WIDTH,
    Drawing,
    canvas,
    finish,
)
from pipeline.report.load import ProbeRecord, Run
from pipeline.report.protocols import Metric

Point = tuple[float, float]

_ON_SERIES = "#10151a"
_ROW = 0.3
"""Height of one bar or one row of points, inches."""
_MOST_POINTS = 1500
_SMOOTHED = 40
"""The loss curve is a mean over one part in so many of its steps."""


def draw_confusion(name: str, labels: Sequence[str], counts: NDArray[np.int64]) -> Drawing:
    """Draw the share of each true class by predicted class, summed over seeds."""
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)
    side = len(labels)
    with canvas(min(WIDTH, 1.5 + 0.42 * side)) as figure:
        axes = figure.subplots()
        for truth in range(side):
            for predicted in range(side):
                share = shares[truth, predicted]
                axes.add_patch(_cell(predicted, truth, share))
                axes.text(
                    predicted, truth, f"{100 * share:.0f}", ha="center", va="center",
                    color=INK if share >= 0.01 else MUTED, fontsize=9,
                )  # fmt: skip
        axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
        axes.set_xticks(range(side), labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(side), labels)
        axes.set(xlabel="Predicted", ylabel="True")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return finish(
            figure,
            name,
            "Confusion matrix",
            "Per cent of each true class; all seeds together, "
            f"{int(support.sum()):,} readable answers.",
        )


def draw_gates(
    name: str, groups: Mapping[str, pd.DataFrame], levels: Mapping[str, Mapping[str, str]],
    title: str, caption: str,
) -> Drawing:  # fmt: skip
    """Draw mean gate weights as stacked bars, one panel a level, one bar a group of utterances.

    Args:
        name: See `finish`.
        groups: Predictions of each class (or range of scores).
        levels: Panel title to a mapping from column to the name of what it weighs.
        title: See `finish`.
        caption: See `finish`.
    """
    height = 0.15 + len(levels) * (0.55 + _ROW * len(groups))
    with canvas(height) as figure:
        panels = np.atleast_1d(figure.subplots(len(levels), 1))
        for axes, (level, columns) in zip(panels, levels.items(), strict=True):
            left = np.zeros(len(groups))
            for number, (column, shown) in enumerate(columns.items()):
                weights = np.array([rows[column].mean() for rows in groups.values()])
                palette = EXPERT_SERIES if column.startswith("gate_expert_") else SERIES
                color = palette[number % len(palette)]
                bars = axes.barh(list(groups), weights, left=left, color=color, height=0.72)
                bars.set_label(shown)
                texts = [f"{100 * weight:.0f}" if weight >= 0.08 else "" for weight in weights]
                axes.bar_label(bars, texts, label_type="center", color=_ON_SERIES, fontsize=8.5)
                left += np.nan_to_num(weights)
            axes.set_xlim(0, 1)
            axes.set_xticks([])
            axes.invert_yaxis()
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(level, color=MUTED, pad=18)
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 0.985), ncols=len(columns), handlelength=0.9,
                handleheight=0.9, columnspacing=1.2, borderpad=0, borderaxespad=0.2,
            )  # fmt: skip
        return finish(figure, name, title, caption)


def draw_training(name: str, runs: Sequence[Run]) -> list[Drawing]:
    """Draw the training loss by step and the validation score by epoch, one line a seed."""
    losses = {run.result.seed: _losses(run) for run in runs}
    scores = {run.result.seed: _points(run.epochs(), "epoch", "selection") for run in runs}
    best = {run.result.seed: run.result.best_epoch for run in runs}
    found = []
    if any(losses.values()):
        with canvas(2.7) as figure:
            axes = _lines(figure, losses, "Step", "Loss")
            found.append(
                finish(figure, f"{name}-loss", "Training loss", "Running mean over steps.")
            )
    if any(scores.values()):
        with canvas(2.7) as figure:
            axes = _lines(figure, scores, "Epoch", "Score")
            for number, (seed, points) in enumerate(scores.items()):
                chosen = [point for point in points if point[0] == best[seed]]
                axes.plot(*_columns(chosen), "o", color=SERIES[number % len(SERIES)], markersize=5)
            caption = "The score that chooses the epoch; the chosen one is marked."
            found.append(finish(figure, f"{name}-score", "Validation score", caption))
    return found


def draw_scores(name: str, truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> Drawing:
    """Draw predicted against true scores; a large split is sampled, and the caption says so."""
    readable = ~np.isnan(predicted)
    truth, predicted = truth[readable], predicted[readable]
    total = len(truth)
    if total > _MOST_POINTS:
        kept = np.random.default_rng(0).choice(total, _MOST_POINTS, replace=False)
        truth, predicted = truth[kept], predicted[kept]
    limit = float(np.ceil(np.abs(truth).max(initial=1.0)))
    with canvas(3.6) as figure:
        axes = figure.subplots()
        axes.plot([-limit, limit], [-limit, limit], color=MUTED, linewidth=1, dashes=(4, 3))
        axes.axhline(0, color=GRID, linewidth=0.8)
        axes.axvline(0, color=GRID, linewidth=0.8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.scatter(truth, predicted, s=13, color=ACCENT, alpha=0.6, linewidths=0)
        axes.set(xlabel="True score", ylabel="Predicted score", xlim=(-limit * 1.05, limit * 1.05))
        axes.tick_params(length=0)
        shown = f"{total:,} utterances" if total == len(truth) else f"{len(truth):,} of {total:,}"
        return finish(
            figure, name, "Predicted against true", f"One seed, {shown}; dashed: a perfect answer."
        )


def draw_reliability(
    name: str, found: Reliability, temperature: float | None, experiment: str
) -> Drawing:
    """Draw the share of right answers by the probability that the model gave them."""
    total = int(found.count.sum())
    with canvas(3.6) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, dashes=(4, 3))
        axes.vlines(
            found.confidence, found.confidence, found.accuracy, color=SERIES[1], linewidth=2
        )
        sizes = 12 + 240 * found.count / total
        axes.scatter(
            found.confidence, found.accuracy, s=sizes, color=ACCENT, linewidths=0, zorder=3
        )
        axes.set(xlim=(0, 1.02), ylim=(0, 1.04))
        axes.set(xlabel="Probability of the predicted label", ylabel="Share that is right")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        fitted = f"; temperature {temperature:.2f}, fitted on validation" if temperature else ""
        return finish(
            figure,
            name,
            f"Calibration: expected error {100 * found.error:.1f} %",
            f"{total:,} answers of {experiment} in ten bins of equal width, dots by their number; "
            f"on the dashed line a probability means what it says{fitted}.",
        )


def draw_ceilings(name: str, rows: Sequence[AgainstCeiling]) -> Drawing:
    """Draw each experiment's score with its interval, and the ceiling of its modalities."""
    metric = rows[0].metric
    with canvas(0.6 + 0.29 * len(rows)) as figure:
        axes = figure.subplots()
        for place, row in enumerate(rows):
            low, high = row.interval or (row.score, row.score)
            scale = 100 if metric.percent else 1
            axes.plot(
                [scale * low, scale * high], [place] * 2, color=ACCENT, linewidth=2.2, alpha=0.6
            )
            axes.plot(scale * row.score, place, "o", color=ACCENT, markersize=5.5)
            axes.plot(scale * row.ceiling, place, "|", color=INK, markersize=11, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), [row.experiment.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        return finish(
            figure,
            name,
            f"{metric.title} and its ceiling"
            if metric.higher_is_better
            else f"{metric.title} and the best possible one",
            "Dot and bar: test score with its 95 % interval. Stroke: the best that any model could "
            "reach from the same modalities.",
        )


def draw_folds(
    name: str,
    rows: Mapping[str, tuple[Mapping[str, float], float | None]],
    metric: Metric,
    title: str,
) -> Drawing:
    """Draw every fold's score as a dot and the pooled score as a stroke, one line an experiment.

    Args:
        name: See `finish`.
        rows: Experiment to its scores by fold, and its pooled score.
        metric: What is scored.
        title: See `finish`.
    """
    scale = 100 if metric.percent else 1
    with canvas(0.6 + 0.36 * len(rows)) as figure:
        axes = figure.subplots()
        for place, (folds, pooled) in enumerate(rows.values()):
            scores = [scale * score for score in folds.values()]
            axes.plot(
                scores, [place] * len(scores), "o", color=ACCENT, markersize=6, alpha=0.45,
                markeredgewidth=0,
            )  # fmt: skip
            if pooled is not None:
                axes.plot(scale * pooled, place, "|", color=INK, markersize=13, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        unit = ", per cent" if metric.percent else ""
        axes.set_xlabel(f"{metric.title}{unit}")
        return finish(
            figure, name, title, "Dot: one fold, mean over seeds. Stroke: all folds pooled."
        )


def draw_probe(name: str, probe: Mapping[str, ProbeRecord], experiment: str) -> Drawing:
    """Draw the mean gate weight on each modality before and after noise replaces it."""
    with canvas(1.0 + 0.42 * len(probe)) as figure:
        axes = figure.subplots()
        for place, record in enumerate(probe.values()):
            axes.annotate(
                "", (record.after, place), (record.before, place),
                arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.2, "shrinkA": 4},
            )  # fmt: skip
            axes.plot(record.before, place, "o", color=ACCENT, markersize=7)
            axes.plot(record.after, place, "o", color=SERIES[1], markersize=7)
            middle = (record.before + record.after) / 2
            axes.text(
                middle, place - 0.2, f"−{100 * record.drop:.0f} %".replace("−-", "+"),
                ha="center", va="bottom", fontsize=9,
            )  # fmt: skip
        axes.set_yticks(range(len(probe)), list(probe))
        axes.set_ylim(len(probe) - 0.5, -0.7)
        axes.set_xlim(left=-0.015)
        axes.set_xlabel("Mean gate weight")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        return finish(
            figure,
            name,
            "Noise probe",
            f"Gate weight on a modality (blue) and with noise in its place (orange); {experiment}.",
        )


def _cell(column: int, row: int, share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.48, row - 0.48), 0.96, 0.96, facecolor=ACCENT, alpha=0.04 + 0.71 * share,
        linewidth=0,
    )  # fmt: skip


def _lines(figure: Figure, points: Mapping[int, Sequence[Point]], across: str, up: str) -> Axes:
    axes = figure.subplots()
    for number, (seed, line) in enumerate(points.items()):
        color = SERIES[number % len(SERIES)]
        axes.plot(*_columns(line), color=color, linewidth=1.4, label=f"seed {seed}")
    axes.set(xlabel=across, ylabel=up)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if len(points) > 1:
        axes.legend(ncols=2)
    return axes


def _points(entries: Sequence[Mapping[str, Any]], across: str, up: str) -> list[Point]:
    complete = (e for e in entries if _is_number(e.get(across)) and _is_number(e.get(up)))
    return [(float(entry[across]), float(entry[up])) for entry in complete]


def _losses(run: Run) -> list[Point]:
    """Return the running mean of the loss by step, or by epoch where no step was logged."""
    points = _points(run.steps(), "step", "loss") or _points(run.epochs(), "step", "train_loss")
    window = max(1, len(points) // _SMOOTHED)
    chunks = [points[start : start + window] for start in range(0, len(points), window)]
    return [(float(x), float(y)) for x, y in (np.mean(chunk, axis=0) for chunk in chunks)]


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
