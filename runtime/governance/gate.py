"""The gate: may this candidate replace this champion, judged on rows that both scored.

Null of each metric: the candidate is worse than the champion by at least the margin. It is rejected when the lower
one-sided `confidence` bound of the improvement exceeds -margin, so a candidate exactly at the margin passes with a
probability of about 1 - confidence (less when several metrics gate, since all must pass). It does not know where the
scores come from.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from runtime.config.schema import GateConfig
from runtime.core.errors import RefusedError, UsageError
from runtime.data.metrics import Floats, Ints, auc, brier, check_scores, log_loss
from runtime.governance.bootstrap import expanded_percentiles, resample_improvements
from runtime.governance.paired_tests import DeLong, McNemar, delong_test, mcnemar_test

Metric = Literal["auc", "log_loss", "brier"]
Verdict = Literal["Passed", "Rejected"]

METRICS: tuple[Metric, ...] = ("auc", "log_loss", "brier")
TITLES: dict[Metric, str] = {"auc": "AUC", "log_loss": "log loss", "brier": "Brier score"}
HIGHER_IS_BETTER: dict[Metric, bool] = {"auc": True, "log_loss": False, "brier": False}
MIN_CLUSTERS = 5
"""Below it a clustered bootstrap says nothing."""
FEW_CLUSTERS = 20
MAX_UNDEFINED_FRACTION = 0.05
"""Resamples with one class only that may be left out; with more the bounds would mean something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricComparison:
    """One metric of both models; improvement and its bounds are signed so that above 0 is better."""

    metric: Metric
    candidate: float
    champion: float
    improvement: float
    lower: float
    upper: float
    margin: float | None
    """Loss that is still tolerated; None where the metric is only reported."""
    is_non_inferior: bool
    """The lower bound exceeds -margin, or -0 where no margin is given."""
    is_superior: bool
    """The lower bound exceeds 0."""

    @property
    def difference(self) -> float:
        """Candidate minus champion, in the metric's own direction."""
        return self.candidate - self.champion


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Candidate against champion on the same rows."""

    metrics: tuple[MetricComparison, ...]
    num_rows: int
    num_positive: int
    num_clusters: int
    is_clustered: bool
    """Whole groups were resampled; otherwise each row stands alone."""
    confidence: float
    """One-sided level of each bound."""
    num_resamples: int
    num_undefined_resamples: int
    seed: int
    is_base_rate: bool
    """There was no champion; the candidate was compared with the rows' base rate as a constant score."""
    delong: DeLong
    mcnemar: McNemar

    def metric(self, name: Metric) -> MetricComparison:
        return next(metric for metric in self.metrics if metric.metric == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """A verdict, with its evidence."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Plain sentences: every failed check of a rejection, every passed one of a pass; then what to be careful with."""
    comparison: Comparison
    num_previous_gates: int
    """How often this holdout decided before. Each time makes the next decision on it worth less."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a `difference` (candidate minus champion) is added to each metric."""
        plain = asdict(self)
        plain["reasons"] = list(self.reasons)
        plain["comparison"]["metrics"] = [
            {**asdict(metric), "difference": metric.difference} for metric in self.comparison.metrics
        ]
        return plain


def compare(
    labels: ArrayLike,
    candidate_scores: ArrayLike,
    champion_scores: ArrayLike | None,
    groups: Sequence[Any] | np.ndarray[Any, Any] | None,
    config: GateConfig,
) -> Comparison:
    """Both models on the same rows, with bounds from one paired bootstrap.

    `groups` names each row's cluster, sortable values of one type. Without champion scores the candidate meets the
    rows' base rate and every margin is 0: it has to be better than a constant. RefusedError where the rows cannot
    decide.
    """
    y, candidate, _ = check_scores(labels, candidate_scores, None)
    is_base_rate = champion_scores is None
    champion = np.full_like(candidate, y.mean() if y.size else 0.0) if champion_scores is None else champion_scores
    y, champion, _ = check_scores(y, champion, None)
    clusters = _number_clusters(groups, y.size)
    num_clusters = int(clusters.max()) + 1 if clusters.size else 0
    _check_evidence(y, num_clusters, config, is_clustered=groups is not None)
    gains = resample_improvements(
        y, candidate, champion, clusters, num_resamples=config.num_resamples, seed=config.seed
    )
    num_undefined = int(np.isnan(gains["auc"]).sum())
    if num_undefined > MAX_UNDEFINED_FRACTION * config.num_resamples:
        raise RefusedError(
            f"{num_undefined} of {config.num_resamples} resamples of the holdout's {num_clusters} groups "
            "hold one class only; take a holdout in which more groups have both"
        )
    margins: dict[Metric, float] = dict.fromkeys(config.margins, 0.0) if is_base_rate else dict(config.margins)
    metrics = tuple(
        _compare_metric(name, y, candidate, champion, gains[name], num_clusters, margins.get(name), config.confidence)
        for name in METRICS
    )
    return Comparison(
        metrics=metrics,
        num_rows=y.size,
        num_positive=int(y.sum()),
        num_clusters=num_clusters,
        is_clustered=groups is not None,
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        num_undefined_resamples=num_undefined,
        seed=config.seed,
        is_base_rate=is_base_rate,
        delong=delong_test(y, candidate, champion),
        mcnemar=mcnemar_test(y, candidate, champion),
    )


def decide(
    comparison: Comparison, config: GateConfig, *, num_previous_gates: int = 0, num_left_out: int = 0
) -> GateReport:
    """Passed only where every gated metric is shown to be no worse than its margin, and `must_improve` to be better.

    `num_left_out` rows were taken out of the holdout because one of the models was trained on them.
    """
    passed: list[str] = []
    failed: list[str] = []
    for metric in comparison.metrics:
        if metric.margin is not None:
            (passed if metric.is_non_inferior else failed).append(_margin_reason(metric, comparison))
        if metric.metric == config.must_improve:
            (passed if metric.is_superior else failed).append(_improvement_reason(metric, comparison))
    cautions = _cautions(comparison, num_previous_gates, num_left_out)
    return GateReport(
        verdict="Rejected" if failed else "Passed",
        reasons=(*(failed or passed), *cautions),
        comparison=comparison,
        num_previous_gates=num_previous_gates,
    )


def _number_clusters(groups: Sequence[Any] | np.ndarray[Any, Any] | None, num_rows: int) -> Ints:
    if groups is None:
        return np.arange(num_rows)
    if len(groups) != num_rows:
        raise UsageError(f"groups must name one cluster a row but got {len(groups)} for {num_rows} rows")
    _, clusters = np.unique(np.asarray(groups), return_inverse=True)
    return clusters.astype(np.int64)


def _check_evidence(labels: Floats, num_clusters: int, config: GateConfig, *, is_clustered: bool) -> None:
    if labels.size < config.min_rows:
        raise RefusedError(
            f"the holdout has {labels.size} labelled rows, fewer than gate.min_rows {config.min_rows}; "
            "take a longer holdout"
        )
    num_positive = int(labels.sum())
    if min(num_positive, labels.size - num_positive) < 2:
        raise RefusedError(
            f"the holdout has {num_positive} positive labels in {labels.size} rows; "
            "at least two of each class are needed"
        )
    if is_clustered and num_clusters < MIN_CLUSTERS:
        raise RefusedError(
            f"the holdout has {num_clusters} groups, fewer than {MIN_CLUSTERS}; rows of one group are not independent, "
            "so take a holdout with more groups or a finer group column"
        )


def _compare_metric(
    name: Metric,
    labels: Floats,
    candidate: Floats,
    champion: Floats,
    gains: Floats,
    num_clusters: int,
    margin: float | None,
    confidence: float,
) -> MetricComparison:
    measure = {"auc": auc, "log_loss": log_loss, "brier": brier}[name]
    values = measure(labels, candidate), measure(labels, champion)
    interval = expanded_percentiles(gains, confidence=confidence, num_clusters=num_clusters)
    sign = 1 if HIGHER_IS_BETTER[name] else -1
    return MetricComparison(
        metric=name,
        candidate=values[0],
        champion=values[1],
        improvement=sign * (values[0] - values[1]),
        lower=interval.lower,
        upper=interval.upper,
        margin=margin,
        # Strict for a margin of 0: a candidate equal to the champion in every row is no worse, but not shown better.
        is_non_inferior=interval.lower > -(margin or 0.0),
        is_superior=interval.lower > 0,
    )


def _margin_reason(metric: MetricComparison, comparison: Comparison) -> str:
    opening, bound = _opening(metric, comparison)
    margin = f"{metric.margin or 0:.3f}"
    if metric.is_non_inferior:
        if comparison.is_base_rate:
            return f"{opening} ({bound})"
        return f"{opening} ({bound}), within the margin {margin}"
    if comparison.is_base_rate:
        return f"{opening} ({bound}): not shown to be better than a constant"
    if metric.improvement < -(metric.margin or 0.0):
        return f"{opening} ({bound}), more than the margin {margin}"
    return f"{opening}, but a loss of more than the margin {margin} is not ruled out ({bound})"


def _improvement_reason(metric: MetricComparison, comparison: Comparison) -> str:
    opening, bound = _opening(metric, comparison)
    if metric.is_superior:
        return f"{opening} ({bound}): shown to be better, as must_improve asks"
    return f"{opening} ({bound}): not shown to be better, as must_improve asks"


def _opening(metric: MetricComparison, comparison: Comparison) -> tuple[str, str]:
    """`AUC 0.701 is 0.052 lower than the champion's 0.753`, and the bound in the metric's own direction."""
    other = "the base rate's" if comparison.is_base_rate else "the champion's"
    distance = abs(metric.difference)
    if f"{distance:.3f}" == "0.000":
        relation = "equals"
    else:
        relation = f"is {distance:.3f} {'higher' if metric.difference > 0 else 'lower'} than"
    signed = metric.lower if HIGHER_IS_BETTER[metric.metric] else -metric.lower
    limit = 0.0 if metric.margin is None else metric.margin
    # A bound that rounds to the limit would read as if it kept it.
    shown = f"{signed:+.3f}" if abs(abs(signed) - limit) >= 0.001 else f"{signed:+.5f}"
    bound = f"{comparison.confidence * 100:g} % bound {shown}".replace("-", "−")
    return f"{TITLES[metric.metric]} {metric.candidate:.3f} {relation} {other} {metric.champion:.3f}", bound


def _cautions(comparison: Comparison, num_previous_gates: int, num_left_out: int) -> list[str]:
    cautions = []
    if num_left_out:
        cautions.append(f"{num_left_out:,} rows of the holdout are left out: one of the models was trained on them")
    if comparison.is_base_rate:
        cautions.append("There was no champion: the candidate was compared with the base rate of the same rows")
    if num_previous_gates:
        times = "once" if num_previous_gates == 1 else f"{num_previous_gates} times"
        cautions.append(
            f"These rows have already decided {times}: their bounds are optimistic for what was chosen on them"
        )
    if comparison.is_clustered and comparison.num_clusters < FEW_CLUSTERS:
        cautions.append(f"Only {comparison.num_clusters} groups: the bounds are rough")
    if comparison.num_undefined_resamples:
        cautions.append(
            f"{comparison.num_undefined_resamples} of {comparison.num_resamples} resamples held one class only "
            "and say nothing on AUC"
        )
    return cautions
