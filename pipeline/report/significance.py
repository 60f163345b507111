"""Every experiment of a dataset against its main one: a paired test, corrected for their number.

One family of tests is what one table asks of one metric. Its p-values are corrected by Holm's
method, so that among many experiments one that seems to differ by chance is as rare as in a single
comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.metrics import PairedDifference, holm
from pipeline.metrics.bootstrap import RESAMPLES
from pipeline.report.experiments import Experiment
from pipeline.report.load import Task
from pipeline.report.protocols import Metric
from pipeline.report.resampling import Resampler
from pipeline.report.tables import show_p


@dataclass(frozen=True)
class Verdict:
    """A difference from the main experiment, and its p-value corrected for the whole family."""

    paired: PairedDifference
    p_value: float


def judge_against(
    lead: Experiment,
    others: Sequence[Experiment],
    task: Task,
    metric: Metric,
    resampler: Resampler,
) -> Mapping[str, Verdict]:
    """Compare experiments with the lead in one metric, by name.

    Those that did not answer the same test utterances are left out.
    """
    found: dict[str, PairedDifference] = {}
    for each in others:
        paired = resampler.compare(each, lead, task, metric)
        if paired is not None:
            found[each.name] = paired
    corrected = holm([paired.p_value for paired in found.values()])
    pairs = zip(found.items(), corrected, strict=True)
    return {name: Verdict(paired, p_value) for (name, paired), p_value in pairs}


def explain(lead: Experiment, metric: Metric, tests: int) -> str:
    """Say what the p-values of a family are."""
    drawn = "utterances and seeds" if len(lead.runs) > 1 else "utterances"
    text = (
        f"p: difference from {lead.name} in {metric.title}, two-sided paired bootstrap over {drawn}"
    )
    if tests > 1:
        least = show_p(min(1.0, tests * 2 / (RESAMPLES + 1)))
        bound = least if least.startswith("<") else f"= {least}"
        text += (
            f", Holm-corrected for {tests} comparisons; {RESAMPLES:,} resamples can show no less "
            f"than p {bound} for the smallest"
        )
    if len(lead.runs) == 1:
        text += ". With one seed it judges these training runs, not the methods"
    return f"{text}."
