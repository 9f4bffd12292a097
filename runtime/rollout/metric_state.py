"""What one metric has shown so far, in both directions. Immutable; a tick makes the next state.

Rollback evidence runs over the whole rollout. Promotion evidence runs since the step began: what a canary proved at 5 %
says nothing about how it bears 50 %. Each step then has its own chance of a false promotion, and a canary that is worse
throughout gets past the last step with probability at most α all the same.
"""

from dataclasses import dataclass, replace

import numpy as np

from runtime.rollout.event_counts import EventCounts, ValueSums
from runtime.rollout.evidence import (
    NUM_RISKS,
    Floats,
    log_ceiling_products,
    log_mixture,
    log_normal_mixture,
    log_products,
)

MIN_CANARY_ROWS = 500
"""Rows from which on the evidence of a real-valued metric is looked at; it is asymptotic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventState:
    """Log likelihood ratios of a binary event, one for each relative risk."""

    rollback: tuple[float, ...] = (0.0,) * NUM_RISKS
    promotion: tuple[float, ...] = (0.0,) * NUM_RISKS
    ceiling: tuple[float, ...] = ()
    """Against "the canary's rate is not negligible"; empty where the metric names no negligible rate."""
    canary_requests: int = 0
    canary_events: int = 0
    primary_requests: int = 0
    primary_events: int = 0

    def after(
        self, counts: EventCounts, *, share: float, margin: float, negligible_rate: float | None = None
    ) -> "EventState":
        events = (counts.canary_events, counts.primary_events)
        rollback = log_products(*events, share, margin, "rollback")
        promotion = log_products(*events, share, margin, "promotion")
        ceiling: tuple[float, ...] = ()
        if negligible_rate is not None:
            added = log_ceiling_products(counts.canary_events, counts.canary_requests, negligible_rate)
            ceiling = tuple((np.array(self.ceiling or (0.0,) * NUM_RISKS) + added).tolist())
        return EventState(
            rollback=tuple((np.array(self.rollback) + rollback).tolist()),
            promotion=tuple((np.array(self.promotion) + promotion).tolist()),
            ceiling=ceiling,
            canary_requests=self.canary_requests + counts.canary_requests,
            canary_events=self.canary_events + counts.canary_events,
            primary_requests=self.primary_requests + counts.primary_requests,
            primary_events=self.primary_events + counts.primary_events,
        )

    def at_new_step(self) -> "EventState":
        return replace(self, promotion=(0.0,) * NUM_RISKS, ceiling=())

    @property
    def log_rollback(self) -> float:
        return float(log_mixture(np.array(self.rollback)))

    @property
    def log_promotion(self) -> float:
        """Null: worse than the margin and, where a negligible rate is named, not below that either.

        Both are evidence against it, so their mean is.
        """
        relative = log_mixture(np.array(self.promotion))
        if not self.ceiling:
            return float(relative)
        return float(np.logaddexp(relative, log_mixture(np.array(self.ceiling))) - np.log(2.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftSum:
    """Σ w (d - margin) and its variance, where d is how much worse the canary's mean was in a tick.

    Floats for one comparison; arrays of one shape for many at once.
    """

    total: float | Floats = 0.0
    variance: float | Floats = 0.0
    canary_rows: float | Floats = 0.0
    first_variance: float | Floats = 0.0
    """The variance when the canary had 500 rows; it sets the mixture's scale. 0 before."""

    def after(
        self, worse: float | Floats, weight: float | Floats, variance: float | Floats, rows: float | Floats
    ) -> "DriftSum":
        """Add a tick: `worse` than the margin by this much on average, the variance being that of `worse`."""
        spread = self.variance + np.square(weight) * variance
        canary_rows = self.canary_rows + rows
        starts = (np.asarray(self.first_variance) == 0) & (np.asarray(canary_rows) >= MIN_CANARY_ROWS)
        first = np.where(starts, spread, self.first_variance)
        total = self.total + np.asarray(weight) * worse
        if np.ndim(total) == 0:
            return DriftSum(
                total=float(total), variance=float(spread), canary_rows=float(canary_rows), first_variance=float(first)
            )
        return DriftSum(total=total, variance=spread, canary_rows=canary_rows, first_variance=first)

    def log_evidence(self, sign: int) -> Floats:
        """log E that the drift is upwards (sign 1, null: at most the margin) or downwards (-1). 0 before 500 rows."""
        first = np.asarray(self.first_variance, dtype=np.float64)
        scale = np.where(first > 0, 1.0 / np.where(first > 0, first, 1.0), 0.0)
        evidence = log_normal_mixture(sign * np.asarray(self.total), self.variance, scale)
        shown: Floats = np.where(first > 0, evidence, 0.0)
        return shown


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueState:
    """A real-valued metric's sums. Its evidence is asymptotic."""

    rollback: DriftSum = DriftSum()
    promotion: DriftSum = DriftSum()
    canary_requests: int = 0
    primary_requests: int = 0

    def after(self, sums: ValueSums, *, margin: float, sign: int) -> "ValueState":
        """`sign` is 1 where higher is worse, else -1. Ticks with under two rows in a slot have no variance: skipped."""
        n_c, n_b = sums.canary_rows, sums.primary_rows
        counted = replace(
            self, canary_requests=self.canary_requests + n_c, primary_requests=self.primary_requests + n_b
        )
        if min(n_c, n_b) < 2:
            return counted
        mean_c, mean_b = sums.canary_sum / n_c, sums.primary_sum / n_b
        variance_c = max(sums.canary_squares / n_c - mean_c**2, 0.0) / (n_c - 1)
        variance_b = max(sums.primary_squares / n_b - mean_b**2, 0.0) / (n_b - 1)
        tick = (sign * (mean_c - mean_b) - margin, n_c * n_b / (n_c + n_b), variance_c + variance_b, float(n_c))
        return replace(counted, rollback=self.rollback.after(*tick), promotion=self.promotion.after(*tick))

    def at_new_step(self) -> "ValueState":
        return replace(self, promotion=DriftSum())

    @property
    def log_rollback(self) -> float:
        return float(self.rollback.log_evidence(1))

    @property
    def log_promotion(self) -> float:
        return float(self.promotion.log_evidence(-1))
