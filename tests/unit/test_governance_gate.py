"""The gate's verdicts and words, and its guarantee: at the margin it passes no more often than it says."""

import json
from typing import Any

import numpy as np
import pytest

from runtime.config.schema import GateConfig
from runtime.core.errors import RefusedError, UsageError
from runtime.data.metrics import Floats
from runtime.governance.gate import Comparison, MetricComparison, compare, decide
from runtime.governance.paired_tests import DeLong, McNemar


def make_metric(**changes: Any) -> MetricComparison:
    values: dict[str, Any] = dict(
        metric="auc", candidate=0.701, champion=0.753, improvement=-0.052, lower=-0.061, upper=-0.043, margin=0.01,
        is_non_inferior=False, is_superior=False,
    )  # fmt: skip
    return MetricComparison(**{**values, **changes})


def make_comparison(*metrics: MetricComparison, **changes: Any) -> Comparison:
    values: dict[str, Any] = dict(
        metrics=metrics, num_rows=29_000, num_positive=8_000, num_clusters=31, is_clustered=True, confidence=0.975,
        num_resamples=2000, num_undefined_resamples=0, seed=0, is_base_rate=False,
        delong=DeLong(difference=0.0, standard_error=0.1, p_value=1.0),
        mcnemar=McNemar(threshold=0.5, only_candidate_right=1, only_champion_right=1, p_value=1.0),
    )  # fmt: skip
    return Comparison(**{**values, **changes})


def draw_scores(seed: int, num_rows: int, noise: float) -> tuple[Floats, Floats, Floats]:
    """Labels, calibrated champion scores, and the champion's scores spoilt by noise on the logit."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1.2, num_rows)
    labels = (generator.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(float)
    return labels, 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-logit - noise * generator.normal(size=num_rows)))


def test_a_clearly_worse_candidate_is_rejected_in_plain_words() -> None:
    report = decide(make_comparison(make_metric()), GateConfig())
    assert report.verdict == "Rejected"
    assert report.reasons == (
        "AUC 0.701 is 0.052 lower than the champion's 0.753 (97.5 % bound −0.061), more than the margin 0.010",
    )


def test_the_direction_of_a_loss_is_told_right() -> None:
    metric = make_metric(
        metric="log_loss", candidate=0.512, champion=0.481, improvement=-0.031, lower=-0.04, upper=-0.02
    )
    assert decide(make_comparison(metric), GateConfig()).reasons == (
        "log loss 0.512 is 0.031 higher than the champion's 0.481 (97.5 % bound +0.040), more than the margin 0.010",
    )


def test_too_little_evidence_rejects_and_says_so() -> None:
    metric = make_metric(candidate=0.749, improvement=-0.004, lower=-0.0153, upper=0.007)
    report = decide(make_comparison(metric), GateConfig())
    assert report.verdict == "Rejected"
    assert report.reasons == (
        "AUC 0.749 is 0.004 lower than the champion's 0.753, "
        "but a loss of more than the margin 0.010 is not ruled out (97.5 % bound −0.015)",
    )


def test_must_improve_asks_for_more_than_no_worse() -> None:
    metric = make_metric(candidate=0.753, improvement=0.0, lower=-0.002, upper=0.002, is_non_inferior=True)
    assert decide(make_comparison(metric), GateConfig()).verdict == "Passed"
    report = decide(make_comparison(metric), GateConfig(must_improve="auc"))
    assert report.verdict == "Rejected"
    assert "not shown to be better" in report.reasons[0]


def test_cautions_follow_the_reasons_and_change_no_verdict() -> None:
    metric = make_metric(candidate=0.76, improvement=0.007, lower=0.002, upper=0.01, is_non_inferior=True)
    report = decide(make_comparison(metric, num_clusters=9), GateConfig(), num_previous_gates=3)
    assert report.verdict == "Passed"
    assert [text.split(":")[0] for text in report.reasons[1:]] == [
        "These rows have already decided 3 times",
        "Only 9 groups",
    ]


def test_compare_finds_the_better_model_whichever_seat_it_has() -> None:
    labels, good, bad = draw_scores(0, 6000, noise=1.5)
    groups = np.repeat(np.arange(30), 200)
    worse = compare(labels, bad, good, groups, GateConfig(num_resamples=400))
    better = compare(labels, good, bad, groups, GateConfig(num_resamples=400))
    assert decide(worse, GateConfig()).verdict == "Rejected"
    assert decide(better, GateConfig(must_improve="log_loss")).verdict == "Passed"
    for one, other in zip(worse.metrics, better.metrics, strict=True):
        assert one.lower <= one.improvement <= one.upper
        assert one.improvement == pytest.approx(-other.improvement)
        assert one.lower == pytest.approx(-other.upper)
        assert other.is_superior
        assert not one.is_non_inferior


def test_the_same_seed_gives_the_same_report_and_it_is_json() -> None:
    labels, good, bad = draw_scores(1, 900, noise=0.5)
    config = GateConfig(num_resamples=300, seed=7)
    reports = [decide(compare(labels, bad, good, None, config), config, num_previous_gates=1) for _ in range(2)]
    assert reports[0] == reports[1]
    plain = json.loads(json.dumps(reports[0].to_json(), allow_nan=False))
    assert plain["verdict"] == reports[0].verdict
    assert plain["num_previous_gates"] == 1
    assert (plain["comparison"]["num_rows"], plain["comparison"]["num_clusters"]) == (900, 900)
    auc_part = plain["comparison"]["metrics"][0]
    assert auc_part["difference"] == pytest.approx(auc_part["candidate"] - auc_part["champion"])


def test_a_model_equal_to_the_champion_is_no_worse_and_not_better() -> None:
    labels, good, _ = draw_scores(2, 800, noise=0.0)
    comparison = compare(labels, good, good, None, GateConfig(num_resamples=200))
    assert decide(comparison, GateConfig()).verdict == "Passed"
    assert decide(comparison, GateConfig(must_improve="auc")).verdict == "Rejected"
    assert comparison.delong.p_value == comparison.mcnemar.p_value == 1.0


def test_the_first_model_meets_the_base_rate_with_no_margin() -> None:
    labels, good, _ = draw_scores(3, 3000, noise=0.0)
    passed = decide(compare(labels, good, None, None, GateConfig(num_resamples=300)), GateConfig())
    assert passed.verdict == "Passed"
    assert "base rate" in passed.reasons[0]
    guesses = np.random.default_rng(5).random(3000)
    report = decide(compare(labels, guesses, None, None, GateConfig(num_resamples=300)), GateConfig())
    assert report.verdict == "Rejected"
    assert "not shown to be better than a constant" in report.reasons[0]


def test_a_holdout_that_cannot_decide_is_refused() -> None:
    labels, good, bad = draw_scores(4, 600, noise=1.0)
    with pytest.raises(RefusedError, match=r"600 labelled rows, fewer than gate.min_rows 1000"):
        compare(labels, bad, good, None, GateConfig(min_rows=1000))
    with pytest.raises(RefusedError, match="0 positive labels in 600 rows"):
        compare(np.zeros(600), bad, good, None, GateConfig())
    with pytest.raises(RefusedError, match="3 groups, fewer than 5"):
        compare(labels, bad, good, np.arange(600) % 3, GateConfig())
    with pytest.raises(RefusedError, match="hold one class only"):
        compare((np.arange(600) < 100).astype(float), bad, good, np.arange(600) // 100, GateConfig())
    with pytest.raises(UsageError, match="one cluster a row but got 5 for 600"):
        compare(labels, bad, good, np.arange(5), GateConfig())
    with pytest.raises(UsageError, match=r"within \[0, 1\] but got 1.5"):
        compare(labels, good, np.full(600, 1.5), None, GateConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margins": {}}, "lets everything pass"),
        ({"margins": {"auc": -0.1}}, "at least 0 but got -0.1"),
        ({"confidence": 0.4}, r"within \(0.5, 1\) but got 0.4"),
        ({"num_resamples": 10}, "at least 200 but got 10"),
    ],
)
def test_a_gate_that_could_not_say_no_is_a_config_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateConfig(**changes)
