"""The figures to see first: the main experiment's headline scores, and what they have to beat.

The main experiment is chosen by its setup, never by its test score; where another one scores
higher, the card says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.ceilings import AgainstCeiling
from pipeline.report.experiments import Experiment
from pipeline.report.load import Task
from pipeline.report.protocols import BASELINES
from pipeline.report.resampling import Resampler
from pipeline.report.tables import show_range


@dataclass(frozen=True)
class Card:
    """One figure to see first."""

    title: str
    value: str
    details: tuple[str, ...]


def make_card(
    task: Task,
    lead: Experiment,
    ranked: Sequence[Experiment],
    ceilings: Sequence[Sequence[AgainstCeiling]],
    resampler: Resampler,
) -> Card:
    """Make the card of one task; `ranked` holds all experiments, best first in its headline."""
    metric = lead.headline(task)
    details = [f"{lead.name}: {lead.setup}"]
    interval = resampler.interval(lead, task, metric.key)
    if interval:
        details.append(f"95 % interval {show_range(interval, metric.show)}")
    for row in (row for rows in ceilings for row in rows):
        if row.experiment is lead and row.metric == metric:
            details.append(_beside_ceiling(row))
    key, title = BASELINES[task]
    trivial = lead.result.baselines.get(key, {}).get(metric.key)
    if trivial is not None:
        details.append(f"{title.lower()}: {metric.show(trivial)}")
    first = ranked[0]
    if first.mean(metric.key) != lead.mean(metric.key):
        details.append(
            f"the best of {len(ranked)}: {first.name}, {metric.show(first.mean(metric.key))}"
        )
    unit = ", %" if metric.percent else ""
    shown = metric.show(lead.mean(metric.key), lead.spread(metric.key))
    return Card(f"{metric.title}{unit}", shown, tuple(details))


def _beside_ceiling(row: AgainstCeiling) -> str:
    if row.share is None:
        return f"best possible: {row.metric.show(row.ceiling)}"
    bounds = row.share_interval
    shown = f" ({show_range(bounds, lambda value: f'{100 * value:.1f}')})" if bounds else ""
    return f"{100 * row.share:.1f} % of its ceiling{shown}"
