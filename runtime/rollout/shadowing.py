"""What the canary answered in the shadow of the primary, and whether it may have traffic. Pure.

Before `min_requests` a limit counts as broken only on evidence that may be looked at after every request (α is the
plan's alpha_rollback, over both limits together); at `min_requests` what was measured must lie within both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from runtime.config.rollout import RolloutConfig, RolloutShadowConfig
from runtime.core.errors import ContractError
from runtime.rollout.evidence import log_mixture, log_normal_mixture, log_rate_products
from runtime.rollout.metric_state import MIN_CANARY_ROWS
from runtime.telemetry.latency import latency_quantile_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowCounts:
    """Of all replicas that asked. Differences are of scores, row by row and without their sign."""

    compared: int
    failed: int
    """Asked, and not answered with status 200 and as many scores."""
    dropped: int
    """Not asked, since too many were being asked."""
    rows: int
    difference_sum: float
    difference_squares: float
    largest_difference: float
    difference_counts: tuple[int, ...]
    """Rows with a difference up to each of `DIFFERENCE_BOUNDS` of the serving room, and beyond the last."""
    latency: tuple[int, ...]
    """[98] buckets of telemetry.latency: the canary's answers as the asking replica saw them."""

    @property
    def asked(self) -> int:
        return self.compared + self.failed

    @property
    def mean_difference(self) -> float:
        return self.difference_sum / self.rows if self.rows else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowVerdict:
    outcome: Literal["Successful", "Failed", "Inconclusive"]
    reason: str
    asked: int
    failed: int
    dropped: int
    rows: int
    mean_difference: float
    largest_difference: float
    difference_counts: tuple[int, ...]
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    log_errors: float
    """log E against "the error rate keeps its limit"."""
    log_difference: float
    """log E against "the mean difference keeps its limit"; asymptotic, 0 below 500 rows."""
    threshold: float
    """log 1/α of the two together."""


def sum_counts(parts: Sequence[Mapping[str, Any]]) -> ShadowCounts:
    """ContractError for what another version of teal counted in another form."""
    try:
        return ShadowCounts(
            compared=int(_sum(parts, "compared")),
            failed=int(_sum(parts, "failed")),
            dropped=int(_sum(parts, "dropped")),
            rows=int(_sum(parts, "rows")),
            difference_sum=_sum(parts, "difference_sum"),
            difference_squares=_sum(parts, "difference_squares"),
            largest_difference=max((float(part["largest_difference"]) for part in parts), default=0.0),
            difference_counts=_add([part["difference_counts"] for part in parts]),
            latency=_add([part["latency"] for part in parts]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(f"what the shadow counted cannot be read: {error!r}") from error


def judge_shadow(plan: RolloutConfig, counts: ShadowCounts) -> ShadowVerdict:
    assert plan.shadow is not None
    limits = plan.shadow
    # Weighted like two metrics: half of α each.
    threshold = -math.log(plan.alpha_rollback) + math.log(2.0)
    log_errors = float(log_mixture(log_rate_products(counts.failed, counts.asked, limits.max_error_rate)))
    log_difference = _log_difference(counts, limits.max_difference)
    outcome, reason = _decide(limits, counts, log_errors >= threshold, log_difference >= threshold)
    latency = np.array(counts.latency, dtype=np.int64)
    return ShadowVerdict(
        outcome=outcome,
        reason=reason,
        asked=counts.asked,
        failed=counts.failed,
        dropped=counts.dropped,
        rows=counts.rows,
        mean_difference=counts.mean_difference,
        largest_difference=counts.largest_difference,
        difference_counts=counts.difference_counts,
        latency_p50_ms=latency_quantile_ms(latency, 0.5),
        latency_p95_ms=latency_quantile_ms(latency, 0.95),
        log_errors=log_errors,
        log_difference=log_difference,
        threshold=threshold,
    )


def _decide(
    limits: RolloutShadowConfig, counts: ShadowCounts, has_errors: bool, is_off: bool
) -> tuple[Literal["Successful", "Failed", "Inconclusive"], str]:
    is_whole = counts.asked >= limits.min_requests
    rate = counts.failed / counts.asked if counts.asked else 0.0
    errors = f"{rate:.2%} of {counts.asked:,} requests failed in the shadow, the limit is {limits.max_error_rate:.2%}"
    difference = (
        f"scores differ by {counts.mean_difference:.4f} on average in the shadow, the limit is "
        f"{limits.max_difference:g}"
    )
    if has_errors or (is_whole and rate > limits.max_error_rate):
        return "Failed", errors
    if is_off or (is_whole and counts.mean_difference > limits.max_difference):
        return "Failed", difference
    if is_whole:
        return "Successful", f"{errors}; {difference}"
    return "Inconclusive", f"{counts.asked:,} of {limits.min_requests:,} requests compared in the shadow"


def _log_difference(counts: ShadowCounts, limit: float) -> float:
    if counts.rows < MIN_CANARY_ROWS:
        return 0.0
    variance = max(counts.difference_squares / counts.rows - counts.mean_difference**2, 1e-12)
    total = counts.difference_sum - counts.rows * limit
    return float(log_normal_mixture(total, counts.rows * variance, 1.0 / (MIN_CANARY_ROWS * variance)))


def _sum(parts: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(part[name] for part in parts))


def _add(parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(int(total) for total in np.sum([np.asarray(part) for part in parts], axis=0)) if parts else ()
