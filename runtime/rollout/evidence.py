"""Evidence for and against a canary that may be looked at after every tick: e-processes, kept as logarithms.

Arrays only; leading axes are independent comparisons, so one rollout and thousands of simulated ones run the same code.
It knows neither ticks, metrics nor verdicts.

Events. Each request goes to the canary with the logged probability π, whatever it holds. Then, given that an event
happened, it is the canary's with probability p = πr / (πr + 1 - π), where r is the relative risk, canary over primary.
With the margin m let p0 be p at r = 1 + m. One event multiplies a likelihood ratio by p1/p0 if it is the canary's, by
(1 - p1)/(1 - p0) if not; the expected factor, p·p1/p0 + (1 - p)(1 - p1)/(1 - p0), is linear in p and 1 at p = p0.

- rollback: null r ≤ 1 + m in every tick. Here p1 > p0, the factor rises with p, so it is at most 1 under the null.
- promotion: null r ≥ 1 + m in every tick. Here p1 < p0, the factor falls with p, so it is at most 1 under the null.

Products of such factors, and their mean over a fixed grid of p1, are nonnegative supermartingales that start at 1, so
P(ever E ≥ 1/α) ≤ α (Ville 1939). π may change between ticks, and the rate of events may change for both slots alike.
Sources: Lindon & Malek, NeurIPS 2022 (arXiv 2011.03567); Lindon, Sanden & Shirikian, KDD 2022 (2205.14762);
Ramdas et al., Statistical Science 38:576, 2023; Waudby-Smith et al., Annals of Statistics 52:2613, 2024 (values).
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp

from runtime.core.errors import UsageError

Floats = npt.NDArray[np.float64]
Direction = Literal["rollback", "promotion"]

RELATIVE_RISKS: tuple[float, ...] = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Alternatives, as multiples of the null's boundary 1 + m: upwards for rollback, downwards for promotion."""
NUM_RISKS = len(RELATIVE_RISKS)

_RISKS = np.array(RELATIVE_RISKS)


def boundary(share: npt.ArrayLike, relative_risk: npt.ArrayLike) -> Floats:
    """Probability that an event is the canary's, at this share (0..1) and relative risk."""
    weighted = np.asarray(share, dtype=np.float64) * np.asarray(relative_risk, dtype=np.float64)
    probability: Floats = weighted / (weighted + 1.0 - np.asarray(share, dtype=np.float64))
    return probability


def log_factors(share: npt.ArrayLike, margin: float, direction: Direction) -> tuple[Floats, Floats]:
    """Logs of what one event multiplies each likelihood ratio by, the canary's and the primary's. Shape [..., 8].

    Zero where the share is 0 or 1: a slot alone is compared with nothing. UsageError for a share outside 0..1 or a
    margin below 0.
    """
    shares = np.asarray(share, dtype=np.float64)[..., None]
    if not np.all((shares >= 0) & (shares <= 1)):
        raise UsageError(f"a share must be within 0..1 but got {shares[..., 0]}")
    check_margin(margin)
    is_split = (shares > 0) & (shares < 1)
    inside = np.where(is_split, shares, 0.5)
    risks = _RISKS if direction == "rollback" else 1.0 / _RISKS
    null = boundary(inside, 1.0 + margin)
    alternative = boundary(inside, (1.0 + margin) * risks)
    canary = np.where(is_split, np.log(alternative / null), 0.0)
    primary = np.where(is_split, np.log1p(-alternative) - np.log1p(-null), 0.0)
    return canary, primary


def log_products(
    canary_events: npt.ArrayLike,
    primary_events: npt.ArrayLike,
    share: npt.ArrayLike,
    margin: float,
    direction: Direction,
) -> Floats:
    """What these events add to the log of each likelihood ratio. Shape [..., 8]."""
    canary, primary = log_factors(share, margin, direction)
    events_c = np.asarray(canary_events, dtype=np.float64)[..., None]
    events_b = np.asarray(primary_events, dtype=np.float64)[..., None]
    added: Floats = events_c * canary + events_b * primary
    return added


def log_ceiling_products(events: npt.ArrayLike, requests: npt.ArrayLike, ceiling: float) -> Floats:
    """What these events of the canary's requests add to log ratios against "its rate is at least `ceiling`". [..., 8].

    One request multiplies by q/c if it had the event, by (1 - q)/(1 - c) if not, for each q below the ceiling c. Linear
    in the rate, falling, and 1 on average at c: at most 1 for every rate from c up. It needs no event to grow.
    """
    if not 0 < ceiling < 1:
        raise UsageError(f"a rate that does not matter must be within 0..1, ends excluded, but got {ceiling}")
    happened = np.asarray(events, dtype=np.float64)[..., None]
    passed = np.asarray(requests, dtype=np.float64)[..., None] - happened
    rates = ceiling / _RISKS
    added: Floats = happened * np.log(rates / ceiling) + passed * (np.log1p(-rates) - np.log1p(-ceiling))
    return added


def log_rate_products(events: npt.ArrayLike, requests: npt.ArrayLike, limit: float) -> Floats:
    """What these events of so many requests add to log ratios against "their rate is at most `limit`". [..., 8].

    As `log_ceiling_products`, for odds above the limit's: rising in the rate, so at most 1 for every rate up to it.
    """
    if not 0 < limit < 1:
        raise UsageError(f"a rate's limit must be within 0..1, ends excluded, but got {limit}")
    happened = np.asarray(events, dtype=np.float64)[..., None]
    passed = np.asarray(requests, dtype=np.float64)[..., None] - happened
    rates = boundary(limit, _RISKS)
    added: Floats = happened * np.log(rates / limit) + passed * (np.log1p(-rates) - np.log1p(-limit))
    return added


def log_mixture(products: Floats) -> Floats:
    """log E of accumulated `log_products`: the mean of the eight ratios. Shape [...]."""
    mixed: Floats = logsumexp(products, axis=-1) - math.log(NUM_RISKS)
    return mixed


def log_normal_mixture(total: npt.ArrayLike, variance: npt.ArrayLike, scale: npt.ArrayLike) -> Floats:
    """log E of a sum without upward drift under the null: exp(θS - θ²V/2) mixed over half-normal θ of variance `scale`.

    Exact for Gaussian sums; for others asymptotic: the false alarm rate tends to at most α as the first look moves out.
    """
    sums, spread = np.asarray(total, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    rho = np.asarray(scale, dtype=np.float64)
    widened = 1.0 + rho * spread
    mixed: Floats = (
        math.log(2.0)
        - 0.5 * np.log(widened)
        + rho * sums**2 / (2.0 * widened)
        + log_ndtr(sums * np.sqrt(rho / widened))
    )
    return mixed


def log_weighted_sum(log_evidence: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """log Σ w E over the last axis: evidence against "every metric keeps its margin", however they depend.

    UsageError unless the weights are positive and sum to 1.
    """
    values, shares = np.asarray(log_evidence, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not np.all(shares > 0) or not math.isclose(float(shares.sum()), 1.0, abs_tol=1e-9):
        raise UsageError(f"weights must be above 0 and sum to 1 but got {shares.tolist()}")
    combined: Floats = logsumexp(values, b=shares, axis=-1)
    return combined


def expected_requests(
    *, share: float, event_rate: float, margin: float, relative_risk: float, alpha: float, direction: Direction
) -> float:
    """Requests to both slots after which the expected log evidence reaches 1/α; inf if it never grows.

    `event_rate` is the primary's. First order, no overshoot: good to a third where it is more than a few ticks.
    """
    log_canary, log_primary = log_factors(share, margin, direction)
    probability = float(boundary(share, relative_risk))
    growth = float((probability * log_canary + (1.0 - probability) * log_primary).max())
    events_per_request = event_rate * (share * relative_risk + 1.0 - share)
    if growth <= 0 or events_per_request <= 0:
        return math.inf
    return (math.log(1.0 / check_alpha(alpha)) + math.log(NUM_RISKS)) / growth / events_per_request


def expected_canary_requests_below(*, ceiling: float, event_rate: float, alpha: float) -> float:
    """The canary's requests after which the expected log evidence that its rate is below the ceiling reaches 1/α."""
    growth = float(log_ceiling_products(event_rate, 1.0, ceiling).max())
    if growth <= 0:
        return math.inf
    return (math.log(1.0 / check_alpha(alpha)) + math.log(NUM_RISKS)) / growth


def expected_canary_rows(*, margin: float, deviation: float, share: float, alpha: float, min_rows: int) -> float:
    """The canary's rows after which equal means are proved to differ by less than the margin, on average."""
    per_row = margin**2 * (1.0 - share) / deviation**2
    rows = float(min_rows)
    # z² of so many rows against log E of the mixture, whose scale is set at `min_rows`: a few rounds settle it.
    for _ in range(20):
        needed = (
            2.0 * (1.0 + min_rows / rows) * (math.log(1.0 / check_alpha(alpha)) + 0.5 * math.log1p(rows / min_rows))
        )
        rows = max(float(min_rows), needed / per_row)
    return rows


def check_alpha(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise UsageError(f"a false alarm rate must be within 0..1, ends excluded, but got {alpha}")
    return alpha


def check_margin(margin: float) -> float:
    if not 0 <= margin < math.inf:
        raise UsageError(f"a margin must be a number of at least 0 but got {margin}")
    return margin
