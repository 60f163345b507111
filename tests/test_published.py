"""The published rows as data: complete, in range, under names that a run's own metrics have."""

import pytest

from pipeline.metrics import classification_metrics, regression_metrics
from pipeline.report.protocols import CLASSIFICATION, REGRESSION, UNSTATED
from pipeline.report.published import PublishedRow, published_rows

FAMILY = {"mosei": "mosi", "mosi": "mosi", "sims": "sims", "simsv2": "sims"}


def row(dataset, method, **wanted):
    found = [
        each
        for each in published_rows()[dataset]
        if each.method == method and all(getattr(each, key) == want for key, want in wanted.items())
    ]
    assert found, (dataset, method, wanted)
    return found[0]


def test_every_built_in_benchmark_has_rows():
    counts = {name: len(rows) for name, rows in published_rows().items()}
    assert counts == {"meld": 30, "cherma": 6, "mosei": 35, "mosi": 21, "sims": 15, "simsv2": 35}


@pytest.mark.parametrize("dataset", ["meld", "cherma", "mosei", "mosi", "sims", "simsv2"])
def test_rows_use_the_metrics_of_their_dataset_as_fractions(dataset):
    own = REGRESSION[FAMILY[dataset]] if dataset in FAMILY else CLASSIFICATION
    known = {metric.key for metric in (*own, *UNSTATED)}
    for each in published_rows()[dataset]:
        assert each.metrics, each
        assert set(each.metrics) <= known, each
        assert set(each.sd) <= set(each.metrics), each
        assert all(0.0 < value < 1.0 for value in each.metrics.values()), each
        assert all(0.0 < value < 0.1 for value in each.sd.values()), each
        assert each.source
        assert each.protocol


def test_a_figure_of_unstated_convention_says_so():
    for rows in published_rows().values():
        for each in rows:
            unstated = any(key.endswith("_unstated") for key in each.metrics)
            assert unstated == ("has0 or non0 not stated" in each.protocol), each


def test_meld_rows_state_their_context():
    for each in published_rows()["meld"]:
        assert each.protocol.startswith(("dialogue context", "single utterance", "context not"))


def test_the_method_s_own_four_numbers():
    found = {
        name: next(each for each in rows if each.method == "EGMF")
        for name, rows in published_rows().items()
        if any(each.method == "EGMF" for each in rows)
    }
    assert {name: dict(each.metrics) for name, each in found.items()} == {
        "meld": {"weighted_f1": 0.6557},
        "cherma": {"weighted_f1": 0.739},
        "mosei": {"f1_unstated": 0.8709},
        "simsv2": {"acc2": 0.8257},
    }
    assert {each.status for each in found.values()} == {"aggregator"}


def test_numbers_that_readers_compare_with():
    adapter = row("mosei", "MSE-Adapter", backbone="ChatGLM3-6B-base")
    assert (adapter.metrics["f1_has0"], adapter.sd["f1_has0"]) == (0.8677, 0.0032)
    assert row("cherma", "MSE-Adapter", backbone="Qwen-1.8B").metrics["weighted_f1"] == 0.7201
    assert row("cherma", "LFMIM").protocol.endswith("selected on the test split")
    assert row("simsv2", "AV-MC").metrics["acc2"] == 0.825
    assert row("mosi", "Self-MM", status="verified").metrics["mae"] == 0.708
    assert row("meld", "M2FNet").status == "unverified"


def test_the_collapsed_row_is_marked():
    collapsed = row("sims", "EF-LSTM")
    assert "collapsed" in collapsed.protocol
    assert (collapsed.metrics["acc2"], collapsed.metrics["f1"]) == (0.6937, 0.5682)


def test_metric_names_are_those_that_runs_write():
    import numpy as np

    truth = np.array([-1.0, 0.2, 1.0])
    for family, metrics in REGRESSION.items():
        assert {metric.key for metric in metrics} <= set(regression_metrics(truth, truth, family))
    scores = classification_metrics(["joy"], ["joy"], ["joy"])
    assert {metric.key for metric in CLASSIFICATION} <= set(scores)


def test_a_row_without_status_or_protocol_is_refused():
    good = {
        "method": "X",
        "metrics": {"acc2": 0.5},
        "source": "s",
        "status": "verified",
        "protocol": "p",
    }
    PublishedRow.model_validate(good)
    for change in ({"status": "probably"}, {"protocol": None}, {"metrics": {"acc2": "high"}}):
        with pytest.raises(ValueError, match=next(iter(change))):
            PublishedRow.model_validate(good | change)
