"""A plan's steps, what each is judged by, and how many requests each needs to be decided. Arithmetic only."""

import math
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from runtime.config.rollout import RolloutConfig, RolloutMetricConfig
from runtime.core.errors import ConfigError
from runtime.rollout.analysis import AnalysisPlan, Metric
from runtime.rollout.evidence import expected_canary_requests_below, expected_canary_rows, expected_requests
from runtime.rollout.metric_state import MIN_CANARY_ROWS
from runtime.store.records import FULL_SHARE

ASSUMED_ERROR_RATE = 0.001
ASSUMED_DEVIATION = 0.25
ASSUMED_LOSS_DEVIATION = 0.4
"""And that every request's label comes back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One share of the canary, and what must have happened at it before the next."""

    percent: int
    min_s: float
    min_requests: int
    max_s: float
    pause: bool
    approvals: int

    @property
    def share(self) -> int:
        """In basis points."""
        return self.percent * 100

    @property
    def is_last(self) -> bool:
        """All traffic: nothing is left to compare with."""
        return self.share == FULL_SHARE


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutlook:
    """What a step needs, on average, if the canary is exactly as good as the primary."""

    percent: int
    requests: float
    """To both slots; inf if it can never be decided."""
    decided_by: str
    """The metric that takes longest, or `min_requests`."""
    seconds: float | None
    """At the expected traffic, and no less than min_s; None where none is expected."""
    max_s: float

    @property
    def can_decide(self) -> bool:
        return math.isfinite(self.requests) and (self.seconds is None or self.seconds <= self.max_s)


def steps_of(plan: RolloutConfig) -> tuple[Step, ...]:
    """The steps in order; those before the last have something to be compared with."""
    found = []
    for index, percent in enumerate(plan.steps_percent):
        own = plan.steps.get(percent)
        found.append(
            Step(
                percent=percent,
                min_s=plan.min_s if own is None or own.min_s is None else own.min_s,
                min_requests=plan.min_requests if own is None or own.min_requests is None else own.min_requests,
                max_s=plan.max_s if own is None or own.max_s is None else own.max_s,
                pause=own is not None and own.pause,
                approvals=(0 if own is None else own.approvals) + (plan.approvals if index == 0 else 0),
            )
        )
    return tuple(found)


def analysis_plan(plan: RolloutConfig, step: Step) -> AnalysisPlan:
    """The metrics as the analysis compares them. A score may move neither up nor down: two comparisons."""
    metrics = []
    for name, metric in plan.metrics.items():
        if metric.kind == "feedback":
            metrics.append(_feedback_metric(name, metric))
            continue
        if metric.kind != "score":
            metrics.append(_event_metric(name, metric))
            continue
        for direction, is_higher_worse in zip(score_names(name), (True, False), strict=True):
            metrics.append(
                Metric(
                    name=direction,
                    kind="value",
                    margin=metric.margin,
                    weight=metric.weight / 2,
                    is_required=metric.is_required,
                    is_higher_worse=is_higher_worse,
                )
            )
    return AnalysisPlan(
        metrics=tuple(metrics),
        alpha_rollback=plan.alpha_rollback,
        alpha_promotion=plan.alpha_promotion,
        promote_on=plan.promote_on,
        min_requests=step.min_requests,
    )


def score_names(name: str) -> tuple[str, str]:
    return f"{name} up", f"{name} down"


def outlook(plan: RolloutConfig, requests_per_s: float | None = None) -> list[StepOutlook]:
    """What each step with a comparison needs; at `requests_per_s`, by default the plan's own expectation."""
    traffic = plan.expected_requests_per_s if requests_per_s is None else requests_per_s
    found = []
    for step in steps_of(plan):
        if step.is_last:
            continue
        share = step.share / FULL_SHARE
        needs = {"min_requests": step.min_requests / share}
        if plan.promote_on == "evidence":
            needs |= {
                name: _requests_needed(metric, share, plan.alpha_promotion)
                for name, metric in plan.metrics.items()
                if metric.is_required
            }
        slowest = max(needs, key=lambda name: needs[name])
        requests = needs[slowest]
        seconds = None if traffic is None else max(step.min_s, requests / traffic)
        found.append(
            StepOutlook(percent=step.percent, requests=requests, decided_by=slowest, seconds=seconds, max_s=step.max_s)
        )
    return found


def check_plan(plan: RolloutConfig, requests_per_s: float | None = None) -> None:
    """ConfigError for the first step that cannot be decided, with the number of requests that it would need."""
    traffic = plan.expected_requests_per_s if requests_per_s is None else requests_per_s
    for found in outlook(plan, requests_per_s):
        if found.can_decide:
            continue
        if not math.isfinite(found.requests):
            raise ConfigError(
                f"the step at {found.percent} % can never pass: {found.decided_by} cannot be proved to be within its "
                "margin; give it a margin above 0, errors a negligible_rate above those expected, or is_required: false"
            )
        assert traffic is not None
        raise ConfigError(
            f"the step at {found.percent} % needs about {found.requests:,.0f} requests for {found.decided_by}, "
            f"but {found.max_s:g} s bring {found.max_s * traffic:,.0f} at {traffic:g} a second; raise max_s, "
            "the margin or the percentage, or set promote_on: no_harm"
        )


def plan_to_json(plan: RolloutConfig) -> dict[str, Any]:
    values: dict[str, Any] = _PLANS.dump_python(plan, mode="json")
    return values


def plan_from_json(values: dict[str, Any]) -> RolloutConfig:
    """ConfigError if it is none, such as one that another version of teal wrote."""
    try:
        return _PLANS.validate_python(values)
    except ValidationError as error:
        raise ConfigError(f"the rollout's plan cannot be read: {error}") from error


_PLANS = TypeAdapter(RolloutConfig)


def _event_metric(name: str, metric: RolloutMetricConfig) -> Metric:
    return Metric(
        name=name,
        kind="event",
        margin=metric.margin,
        weight=metric.weight,
        is_required=metric.is_required,
        negligible_rate=metric.negligible_rate,
    )


def _feedback_metric(name: str, metric: RolloutMetricConfig) -> Metric:
    return Metric(
        name=name,
        kind="value",
        margin=metric.margin,
        weight=metric.weight,
        is_required=metric.is_required,
        is_late=True,
    )


def _requests_needed(metric: RolloutMetricConfig, share: float, alpha: float) -> float:
    if metric.kind in ("score", "feedback"):
        assumed = ASSUMED_DEVIATION if metric.kind == "score" else ASSUMED_LOSS_DEVIATION
        deviation = assumed if metric.expected is None else metric.expected
        rows = expected_canary_rows(
            margin=metric.margin, deviation=deviation, share=share, alpha=alpha, min_rows=MIN_CANARY_ROWS
        )
        return rows / share
    rate = 1.0 - metric.quantile if metric.quantile is not None else metric.expected
    rate = ASSUMED_ERROR_RATE if rate is None else rate
    # Two ways to pass share the evidence, which costs a factor of two.
    level = alpha if metric.negligible_rate is None else alpha / 2
    relative = expected_requests(
        share=share, event_rate=rate, margin=metric.margin, relative_risk=1.0, alpha=level, direction="promotion"
    )
    if metric.negligible_rate is None:
        return relative
    below = expected_canary_requests_below(ceiling=metric.negligible_rate, event_rate=rate, alpha=level)
    return min(relative, below / share)
