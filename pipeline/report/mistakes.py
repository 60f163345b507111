"""Errors worth reading: the wrong answers that the model was surest of, and the farthest scores."""

import pandas as pd

from pipeline.report.corpus import Corpus
from pipeline.report.experiments import Experiment
from pipeline.report.load import Task
from pipeline.report.protocols import Metric
from pipeline.report.tables import Cell, Column, Row, Table, text_cell
from pipeline.report.wording import plain

SHOWN = 10
_CHOSEN: dict[Task, str] = {
    "classification": f"The {SHOWN} wrong answers with the highest probability, in per cent, among "
    "those that most seeds agree on; probabilities and weights are means over seeds.",
    "regression": f"The {SHOWN} answers farthest from the truth, means over seeds.",
}


def mistake_table(dataset: str, task: Task, lead: Experiment, corpus: Corpus) -> Table | None:
    """Make the table of the largest mistakes, of one task; None where there is none to show.

    Answers are averaged over seeds: a label is shown where most seeds agree on a wrong one.
    """
    tables = [rows for run in lead.runs if (rows := run.of_task(task)) is not None]
    if not tables:
        return None
    rows = pd.concat(tables, ignore_index=True)
    worst = _labels(rows) if task == "classification" else _scores(rows)
    if worst.empty:
        return None
    texts = corpus.texts
    gated = bool(_gates(rows))
    columns = [
        Column("id", "Utterance", numeric=False),
        *([Column("transcript", "Transcript", numeric=False)] if texts else []),
        Column("truth", "True", numeric=task == "regression"),
        Column("prediction", "Predicted", numeric=task == "regression"),
        Column("size", "Probability" if task == "classification" else "Error"),
        *([Column("weights", "Gate weights, %", numeric=False)] if gated else []),
    ]
    show = Metric("size", "", percent=task == "classification").show
    return Table(
        f"{dataset}-{task}-mistakes",
        "Confident mistakes" if task == "classification" else "Scores farthest from the truth",
        tuple(columns),
        tuple(
            Row(
                (
                    text_cell(plain(str(row["id"]), 60)),
                    *([text_cell(plain(texts.get(str(row["id"]), "–")))] if texts else []),
                    _answer(row["truth"], task),
                    _answer(row["prediction"], task),
                    Cell(show(row["size"]), row["size"]),
                    *([text_cell(_weights(row, lead))] if gated else []),
                )
            )
            for row in worst.to_dict("records")
        ),
        notes=(_CHOSEN[task], *(() if texts else (f"No transcripts: {corpus.note}.",))),
        quotes=True,
    )


def _labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the wrong labels that most seeds agree on, the most probable first."""
    wrong = rows[rows["valid"] & (rows["prediction"] != rows["truth"])]
    agreed = wrong.groupby(["id", "truth", "prediction"], sort=True)
    found = agreed.agg(
        size=("probability", "mean"), seeds=("probability", "size"), **_gates(rows)
    ).reset_index()
    seeds = rows.groupby("id").size().max()
    found = found[(found["seeds"] * 2 > seeds) & found["size"].notna()]
    return found.sort_values("size", ascending=False, kind="stable").head(SHOWN)


def _scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores farthest from the truth, averaged over seeds."""
    readable = rows[rows["valid"]].copy()
    for name in ("truth", "prediction"):
        readable[name] = pd.to_numeric(readable[name], errors="coerce")
    found = readable.groupby("id", sort=True).agg(
        truth=("truth", "first"), prediction=("prediction", "mean"), **_gates(rows)
    )
    found["size"] = (found["prediction"] - found["truth"]).abs()
    found = found[found["size"].notna()].reset_index()
    return found.sort_values("size", ascending=False, kind="stable").head(SHOWN)


def _gates(rows: pd.DataFrame) -> dict[str, tuple[str, str]]:
    names = [str(name) for name in rows.columns if str(name).startswith("gate_modality_")]
    return {name: (name, "mean") for name in names}


def _answer(value: object, task: Task) -> Cell:
    if task == "regression" and isinstance(value, float):
        return Cell(f"{value:+.2f}".replace("-", "−"), value)
    return text_cell(plain(str(value), 60))


def _weights(row: dict[object, object], lead: Experiment) -> str:
    found = []
    for modality in lead.result.modalities:
        weight = row.get(f"gate_modality_{modality}")
        if isinstance(weight, float) and weight == weight:
            found.append(f"{modality} {100 * weight:.0f}")
    return ", ".join(found) or "–"
