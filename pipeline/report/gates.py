"""What the gate listens to: its weights by class and by language, at both levels, and the probe."""

from collections.abc import Mapping

import pandas as pd

from pipeline.report.experiments import Experiment
from pipeline.report.figures import Drawing
from pipeline.report.plots import draw_gates, draw_probe

_GATE, _EXPERT = "gate_", "gate_expert_"

Levels = dict[str, dict[str, str]]
"""Panel title to a mapping from column to the name of what it weighs."""


def gate_drawings(key: str, lead: Experiment) -> tuple[Drawing, ...]:
    """Draw the lead's gate weights and noise probe, in the order that fills two columns evenly."""
    rows = _rows(lead)
    probe = lead.runs[0].result.noise_probe
    drawn = [draw_probe(f"{key}-probe", probe, lead.runs[0].name)] if probe else []
    if rows is None:
        return tuple(drawn)
    classes, languages = _by_class(rows, lead), _by_language(rows)
    both, inside = _levels(rows, lead)
    sizes = f"{rows['id'].nunique():,} utterances"
    caption = f"Mean weight in per cent, {lead.result.split}, {sizes}, all seeds of {lead.name}."
    found = []
    if both:
        found.append(draw_gates(f"{key}-gates", classes, both, "Gate weights by class", caption))
    if both and len(languages) > 1:
        title = "Gate weights by language"
        found.append(draw_gates(f"{key}-gates-languages", languages, both, title, caption))
    found += drawn
    if inside:
        title = "Modality weights inside each expert"
        found.append(draw_gates(f"{key}-gates-experts", classes, inside, title, caption))
    if inside and len(languages) > 1:
        title = "Modality weights inside each expert by language"
        name = f"{key}-gates-experts-languages"
        found.append(draw_gates(name, languages, inside, title, caption))
    return tuple(found)


def _rows(lead: Experiment) -> pd.DataFrame | None:
    """Return the predictions of all seeds, one row an utterance and seed."""
    task = lead.result.task[0]
    tables = [rows for run in lead.runs if (rows := run.of_task(task)) is not None]
    return pd.concat(tables, ignore_index=True) if tables else None


def _levels(rows: pd.DataFrame, lead: Experiment) -> tuple[Levels, Levels]:
    """Return what is weighed: experts and modalities overall, and modalities inside each expert."""
    names = [str(name) for name in rows.columns if str(name).startswith(_GATE)]
    experts = {name: name.removeprefix(_EXPERT) for name in names if name.startswith(_EXPERT)}
    modalities = lead.result.modalities
    both: Levels = {"Experts": experts} if len(experts) > 1 else {}
    if len(modalities) < 2:
        return both, {}
    overall = {f"gate_modality_{m}": m for m in modalities}
    inside = {
        f"Modalities, {expert} expert": {f"gate_{expert}_{m}": m for m in modalities}
        for expert in experts.values()
    }
    return _complete(both | {"Modalities, over all experts": overall}, names), _complete(
        inside, names
    )


def _complete(levels: Levels, names: list[str]) -> Levels:
    return {title: each for title, each in levels.items() if all(name in names for name in each)}


def _by_class(rows: pd.DataFrame, lead: Experiment) -> Mapping[str, pd.DataFrame]:
    """Split predictions by true class, or by the sign of the true score."""
    if lead.result.task[0] == "classification":
        masks = {label: rows["truth"] == label for label in lead.result.labels}
    else:
        score = pd.to_numeric(rows["truth"], errors="coerce")
        masks = {"negative": score < 0, "zero": score == 0, "positive": score > 0}
    return {name: rows[mask] for name, mask in masks.items() if mask.any()}


def _by_language(rows: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    return {str(language): part for language, part in rows.groupby("language")}
