"""Which metrics each protocol prints, in the field's order, and how."""

from dataclasses import dataclass

from pipeline.metrics import RegressionProtocol
from pipeline.report.load import Protocol, Task


@dataclass(frozen=True)
class Metric:
    """One printed metric: its key in `result.json`, its title, its scale and its direction."""

    key: str
    title: str
    percent: bool = True
    higher_is_better: bool = True

    def show(self, value: float | None, spread: float | None = None) -> str:
        """Return the printed figure, "–" where it is undefined."""
        if value is None:
            return "–"
        text = self._number(value)
        return text if spread is None else f"{text} ± {self._number(spread)}"

    def show_difference(self, value: float) -> str:
        """Return a printed difference, signed."""
        scale, digits = (100, 2) if self.percent else (1, 3)
        return f"{scale * value:+.{digits}f}".replace("-", "−")

    def _number(self, value: float) -> str:
        return f"{100 * value:.2f}" if self.percent else f"{value:.3f}"


MAE = Metric("mae", "MAE", percent=False, higher_is_better=False)
CORR = Metric("corr", "Corr", percent=False)
ACCURACY = Metric("accuracy", "Accuracy")
WEIGHTED_F1 = Metric("weighted_f1", "Weighted F1")
UAR = Metric("uar", "UAR")
ACC2 = Metric("acc2", "Acc-2")

HEADLINES = (WEIGHTED_F1, MAE, ACC2)

CLASSIFICATION = (ACCURACY, WEIGHTED_F1, Metric("macro_f1", "Macro F1"), UAR)
REGRESSION: dict[RegressionProtocol, tuple[Metric, ...]] = {
    "mosi": (
        MAE,
        CORR,
        Metric("acc2_has0", "Acc-2 has0"),
        Metric("f1_has0", "F1 has0"),
        Metric("acc2_non0", "Acc-2 non0"),
        Metric("f1_non0", "F1 non0"),
        Metric("acc5", "Acc-5"),
        Metric("acc7", "Acc-7"),
    ),
    "sims": (
        ACC2,
        Metric("acc2_weak", "Acc-2 weak"),
        Metric("acc3", "Acc-3"),
        Metric("acc5", "Acc-5"),
        Metric("f1", "F1"),
        MAE,
        CORR,
        Metric("r2", "R²", percent=False),
    ),
}
UNSTATED = (Metric("acc2_unstated", "Acc-2 ?"), Metric("f1_unstated", "F1 ?"))
"""Published binary figures whose convention the source does not state."""

BASELINES: dict[Task, tuple[str, str]] = {
    "classification": ("majority", "Majority class"),
    "regression": ("median", "Constant median"),
}


def metrics_of(task: Task, protocol: Protocol) -> tuple[Metric, ...]:
    """Return the metrics that a task prints under a protocol."""
    return CLASSIFICATION if task == "classification" else REGRESSION[family(protocol)]


def headline(task: Task, protocol: Protocol, folds: str = "") -> Metric:
    """Return the metric that ranks experiments, the one that the field's abstracts quote.

    Where each fold is a speaker, that is the unweighted average recall.
    """
    if task == "classification":
        return UAR if folds == "speaker" else WEIGHTED_F1
    return ACC2 if family(protocol) == "sims" else MAE


def family(protocol: Protocol) -> RegressionProtocol:
    """Return by which rules a protocol scores a regression."""
    return "sims" if protocol == "sims" else "mosi"
