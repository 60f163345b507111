"""How far the probabilities can be believed: a table over experiments, a drawing of the main one.

Each seed has a temperature of its own, so seeds are judged one by one and then averaged.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import Reliability, reliability
from pipeline.report.experiments import Experiment
from pipeline.report.figures import Drawing
from pipeline.report.load import Run
from pipeline.report.plots import draw_reliability
from pipeline.report.protocols import Metric
from pipeline.report.tables import Cell, Column, Row, Table, text_cell

_ERROR = Metric("error", "Calibration error", higher_is_better=False)


def calibration_table(dataset: str, experiments: Sequence[Experiment]) -> Table | None:
    """Make the table of each experiment's calibration, None where no labels were predicted."""
    rows = []
    for experiment in experiments:
        seeds = [
            (found, run.result.temperatures.get("classification"))
            for run in experiment.runs
            if (found := _reliability(run)) is not None
        ]
        if not seeds:
            continue
        errors = [found.error for found, _ in seeds]
        confidence = float(np.mean([_weighted(one.confidence, one) for one, _ in seeds]))
        right = float(np.mean([_weighted(one.accuracy, one) for one, _ in seeds]))
        fitted = [temperature for _, temperature in seeds if temperature is not None]
        mean = float(np.mean(errors))
        spread = float(np.std(errors, ddof=1)) if len(errors) > 1 else None
        warmth = float(np.mean(fitted)) if fitted else None
        rows.append(
            Row(
                (
                    text_cell(experiment.name),
                    Cell(_ERROR.show(mean, spread), mean, spread),
                    Cell(_ERROR.show(confidence), confidence),
                    Cell(_ERROR.show(right), right),
                    Cell("–" if warmth is None else f"{warmth:.2f}", warmth),
                )
            )
        )
    if not rows:
        return None
    return Table(
        f"{dataset}-calibration",
        "Calibration",
        (
            Column("experiment", "Experiment", numeric=False),
            Column("calibration_error", "Expected calibration error ↓", spread=True),
            Column("confidence", "Mean probability"),
            Column("accuracy", "Share that is right"),
            Column("temperature", "Temperature"),
        ),
        tuple(rows),
        notes=(
            "Expected calibration error in per cent: ten bins of equal width over the probability "
            "of the predicted label. Temperature: one a run, fitted on validation; mean over "
            "seeds.",
        ),
        folded=True,
    )


def calibration_drawings(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    """Draw the reliability of the first seed's labels."""
    run = lead.runs[0]
    found = _reliability(run)
    if found is None:
        return ()
    temperature = run.result.temperatures.get("classification")
    return (draw_reliability(f"{key}-calibration", found, temperature, run.name),)


def _reliability(run: Run) -> Reliability | None:
    rows = run.of_task("classification")
    if rows is None:
        return None
    rows = rows[rows["valid"] & rows["probability"].between(0.0, 1.0)]
    if rows.empty:
        return None
    correct = (rows["prediction"] == rows["truth"]).to_numpy(dtype=bool)
    return reliability(rows["probability"].to_numpy(dtype=np.float64), correct)


def _weighted(values: NDArray[np.float64], found: Reliability) -> float:
    return float(np.average(values, weights=found.count))
