"""Simulated rollouts, all repetitions at once, and the rules that judge them tick by tick.

Arrays are [repetitions, ticks]. A rule gives the tick, from 1 on, at which it first fires; inf if it never does.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from runtime.rollout.event_counts import Ints, LatencyPast
from runtime.rollout.evidence import Direction, Floats, log_mixture, log_products, log_weighted_sum
from runtime.rollout.metric_state import DriftSum
from runtime.telemetry.latency import BOUNDS_MS

REQUESTS = 1000
ERROR_RATE = 0.01
SWING = 0.8
DAY_TICKS = 288
LATENCY_SIGMA = 0.5
LATENCY_MEDIAN_MS = 20.0
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    canary_requests: Ints
    canary_events: Ints
    primary_events: Ints
    shares: Floats
    """[ticks]"""


def constant_share(share: float, num_ticks: int) -> Floats:
    return np.full(num_ticks, share)


def ramp(num_ticks: int) -> Floats:
    return np.repeat([0.01, 0.05, 0.25, 0.5], math.ceil(num_ticks / 4))[:num_ticks]


def simulate_events(
    rng: np.random.Generator, *, repetitions: int, shares: Floats, relative_risk: float, is_any_hour: bool = False
) -> Traffic:
    """1,000 requests a tick; the rate of events swings over the day by ±80 % in both slots.

    The first tick is when the rate is at its mean and rising or, if `is_any_hour`, another time in each repetition.
    """
    size = (repetitions, shares.size)
    hours = rng.random((repetitions, 1)) if is_any_hour else np.zeros((1, 1))
    rates = ERROR_RATE * (1.0 + SWING * np.sin(2 * np.pi * (np.arange(shares.size) / DAY_TICKS + hours)))
    canary = rng.binomial(REQUESTS, shares, size)
    return Traffic(
        canary_requests=canary,
        canary_events=rng.binomial(canary, np.minimum(relative_risk * rates, 1.0)),
        primary_events=rng.binomial(REQUESTS - canary, rates),
        shares=shares,
    )


# -- rules -------------------------------------------------------------------------------------------------------------


def evidence_path(traffic: Traffic, *, margin: float, direction: Direction) -> Floats:
    """log E after each tick."""
    repetitions, num_ticks = traffic.canary_events.shape
    path = np.empty((repetitions, num_ticks))
    products: Floats | float = 0.0
    for tick in range(num_ticks):
        products = products + log_products(
            traffic.canary_events[:, tick], traffic.primary_events[:, tick], traffic.shares[tick], margin, direction
        )
        path[:, tick] = log_mixture(np.asarray(products))
    return path


def first_crossing(path: Floats, alpha: float) -> Floats:
    return first_tick(path >= math.log(1.0 / alpha))


def first_tick(fires: npt.NDArray[np.bool_]) -> Floats:
    """[repetitions]"""
    ticks: Floats = np.where(fires.any(axis=1), fires.argmax(axis=1) + 1.0, np.inf)
    return ticks


def z_path(traffic: Traffic) -> Floats:
    """The pooled two-proportion z of all requests so far, as dashboards show it; 0 while undefined."""
    n_c = np.cumsum(traffic.canary_requests, axis=1)
    n_b = REQUESTS * np.arange(1, traffic.shares.size + 1) - n_c
    x_c, x_b = np.cumsum(traffic.canary_events, axis=1), np.cumsum(traffic.primary_events, axis=1)
    pooled = (x_c + x_b) / (n_c + n_b)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (x_c / n_c - x_b / n_b) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_b))
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def z_test(traffic: Traffic, alpha: float, num_looks: int = 1) -> Floats:
    """One-sided, at every tick; `num_looks` above 1 is Bonferroni's correction."""
    return first_tick(z_path(traffic) > norm.isf(alpha / num_looks))


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedThreshold:
    """Rolls back at so many ticks, in a row or not, in which the canary's error rate was above a number."""

    max_error_rate: float
    num_failures: int


def fixed_threshold(traffic: Traffic, rule: FixedThreshold) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        fails = traffic.canary_events / traffic.canary_requests > rule.max_error_rate
    return first_tick(np.cumsum(fails, axis=1) >= rule.num_failures)


# -- latency, values, sticky keys --------------------------------------------------------------------------------------


def latency_evidence(
    rng: np.random.Generator, *, repetitions: int, num_ticks: int, share: float, slowdown: float, margin: float
) -> Floats:
    """log Σ w E after each tick, of the three quantiles' events, equally weighted. Lognormal latencies in buckets."""
    bounds = np.log(np.array(BOUNDS_MS) / LATENCY_MEDIAN_MS) / LATENCY_SIGMA
    primary_buckets, canary_buckets = (
        np.diff(np.r_[0.0, norm.cdf(bounds - math.log(factor) / LATENCY_SIGMA), 1.0]) for factor in (1.0, slowdown)
    )
    past = LatencyPast.empty(repetitions)
    products: list[Floats | float] = [0.0] * len(QUANTILES)
    path = np.empty((repetitions, num_ticks))
    weights = np.full(len(QUANTILES), 1 / len(QUANTILES))
    for tick in range(num_ticks):
        n_c = rng.binomial(REQUESTS, share, repetitions)
        canary, primary = rng.multinomial(n_c, canary_buckets), rng.multinomial(REQUESTS - n_c, primary_buckets)
        for number, quantile in enumerate(QUANTILES):
            slower = past.count_slower(canary, quantile), past.count_slower(primary, quantile)
            products[number] = products[number] + log_products(*slower, share, margin, "rollback")
        evidence = np.stack([log_mixture(np.asarray(product)) for product in products], axis=-1)
        path[:, tick] = log_weighted_sum(evidence, weights)
        past = past.after(primary)
    return path


def value_evidence(
    rng: np.random.Generator, *, repetitions: int, num_ticks: int, share: float, shift: float, rows: int = 100
) -> Floats:
    """log E against "the canary's mean is no higher", margin 0; values are exponential with mean 1, so skewed."""
    state = DriftSum()
    path = np.empty((repetitions, num_ticks))
    for tick in range(num_ticks):
        canary = rng.random((repetitions, rows)) < share
        values = rng.standard_exponential((repetitions, rows)) + shift * canary
        n_c = np.clip(canary.sum(axis=1), 2, rows - 2).astype(np.float64)
        sums = [np.stack([(values * mask).sum(axis=1), (values**2 * mask).sum(axis=1)]) for mask in (canary, ~canary)]
        n_b = rows - n_c
        (sum_c, square_c), (sum_b, square_b) = sums
        mean_c, mean_b = sum_c / n_c, sum_b / n_b
        variance = (square_c / n_c - mean_c**2) / (n_c - 1) + (square_b / n_b - mean_b**2) / (n_b - 1)
        state = state.after(mean_c - mean_b, n_c * n_b / rows, variance, n_c)
        path[:, tick] = state.log_evidence(1)
    return path


def sticky_traffic(
    rng: np.random.Generator, *, repetitions: int, num_ticks: int, share: float, counting: str
) -> Traffic:
    """1 % errors spread over everybody, and ten broken clients, each with five requests a tick of which half fail.

    A broken client stays where its key's hash put it. `counting` is "requests", "capped" (one event per key and tick)
    or "once" (one event per key and rollout).
    """
    broken = rng.binomial(10, share, repetitions)[:, None]
    size = (repetitions, num_ticks)
    canary = rng.binomial(REQUESTS, share, size)
    events = [rng.binomial(canary, ERROR_RATE), rng.binomial(REQUESTS - canary, ERROR_RATE)]
    for slot, clients in enumerate((broken, 10 - broken)):
        if counting == "requests":
            events[slot] += rng.binomial(5 * clients, 0.5, size)
        elif counting == "capped":
            events[slot] += rng.binomial(clients, 1 - 0.5**5, size)
        else:
            events[slot][:, 0] += clients[:, 0]
    return Traffic(
        canary_requests=canary, canary_events=events[0], primary_events=events[1], shares=np.full(num_ticks, share)
    )
