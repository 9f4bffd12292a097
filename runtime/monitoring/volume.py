"""How many requests come, against the same hour of earlier weeks: too few, or too many, as evidence in the one budget.

Model: an hour's level varies about the hour's mean as a gamma, and within the hour each tick varies about that level,
more than a Poisson would; both dispersions are estimated from the past and bounded below. Given the hour so far, a tick
is negative binomial under the null; the bets say that the level was multiplied. The budget holds as far as this model
does: hours of one day are taken as independent of each other given their means.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from runtime.core.errors import ContractError
from runtime.monitoring.windows import HOUR_S, Stretch

FACTORS = (1 / 16, 1 / 4, 1 / 2, 2.0, 4.0)
"""What the bets say the level was multiplied by; less than a half or double is not worth an alarm."""
MIN_LEVEL_VARIANCE = 0.04
MIN_TICK_VARIANCE = 0.01
PRIOR_WEEKS = 8
MIN_COVERED = 0.9
"""Share of an hour that must have been watched for it to be history."""
TICK_MEMORY = 0.99
CAP_NATS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedVolume:
    """What an hour of the week brings."""

    requests_per_s: float
    level_variance: float
    """Relative variance of the hour's level from week to week."""
    num_weeks: int


def expect_volume(endpoint: str, stretches: list[Stretch], min_weeks: int) -> ExpectedVolume | None:
    """From the same hour of earlier weeks; None while there are fewer than `min_weeks`, or if `min_weeks` is 0."""
    rates, counts = [], []
    for stretch in stretches:
        if stretch.covered_s < MIN_COVERED * HOUR_S:
            continue
        requests = sum(tally.requests for series, tally in stretch.tallies.items() if series.endpoint == endpoint)
        counts.append(requests)
        rates.append(requests / stretch.covered_s)
    number = len(rates)
    if not min_weeks or number < min_weeks or not sum(counts):
        return None
    mean = sum(rates) / number
    spread = sum((rate - mean) ** 2 for rate in rates) / max(number - 1, 1) / mean**2
    beyond_poisson = max(spread - number / sum(counts), 0.0)
    variance = (PRIOR_WEEKS * MIN_LEVEL_VARIANCE + number * beyond_poisson) / (PRIOR_WEEKS + number)
    return ExpectedVolume(requests_per_s=mean, level_variance=max(variance, MIN_LEVEL_VARIANCE), num_weeks=number)


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeState:
    """Evidence so far and what is known of the running hour; a tick makes a new one."""

    log1p_m: float = 0.0
    hour: int = -1
    information: float = 0.0
    """What the hour's ticks tell of its level, as expected counts without overdispersion."""
    surplus: float = 0.0
    """The same, times the level seen."""
    tick_variance: float = 0.05
    """Relative variance of a tick about its hour's level, beyond a Poisson's."""
    expected: float | None = None
    """Requests expected in the last tick, before the hour so far was looked at; None while there is no history."""
    observed: int = 0

    @property
    def log_m(self) -> float:
        return math.log(math.expm1(self.log1p_m)) if self.log1p_m > 0 else -math.inf

    def advance(self, requests: int, *, at: float, seconds: float, expected: ExpectedVolume | None) -> "VolumeState":
        """After a tick that began at `at`. Without history nothing is claimed and the evidence stands."""
        if expected is None or seconds <= 0:
            return replace(self, expected=None, observed=requests)
        hour = int(at // HOUR_S)
        information, surplus = (self.information, self.surplus) if hour == self.hour else (0.0, 0.0)
        prior = 1 / expected.level_variance
        mean = expected.requests_per_s * seconds
        level = (prior + surplus) / (prior + information)
        predicted = max(mean * level, 1e-9)
        shape = 1 / (self.tick_variance + 1 / (prior + information))
        log_e = _log_mean_exp([_log_ratio(requests, predicted, factor, shape) for factor in FACTORS])
        log1p_m = _log1p_exp(min(self.log1p_m + log_e, CAP_NATS))
        weight = mean / (1 + self.tick_variance * mean)
        seen = ((requests - predicted) ** 2 - predicted) / predicted**2
        tick_variance = TICK_MEMORY * self.tick_variance + (1 - TICK_MEMORY) * min(seen, 1.0)
        return VolumeState(
            log1p_m=log1p_m,
            hour=hour,
            information=information + weight,
            surplus=surplus + weight * requests / mean,
            tick_variance=max(tick_variance, MIN_TICK_VARIANCE) if mean >= 1 else self.tick_variance,
            expected=mean,
            observed=requests,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "VolumeState":
        try:
            return cls(**value)
        except TypeError as error:
            raise ContractError(f"the volume detector's state is broken ({error}): start a new one") from error


def _log_ratio(requests: int, mean: float, factor: float, shape: float) -> float:
    """Log of negative binomial probabilities, mean times factor over mean, both of one shape."""
    return requests * math.log(factor) - (requests + shape) * math.log((factor * mean + shape) / (mean + shape))


def _log_mean_exp(logs: list[float]) -> float:
    highest = max(logs)
    return highest + math.log(sum(math.exp(one - highest) for one in logs) / len(logs))


def _log1p_exp(value: float) -> float:
    return value + math.log1p(math.exp(-value)) if value > 0 else math.log1p(math.exp(value))
