"""Live drift with a false alarm budget: an e-detector over all features, looked at after every tick.

Null hypothesis: each tick's rows are independent draws from cell shares r with sum_b r_b q_b / p_b <= 1 + margin, where
p is the reference and q the shares bet on. For small shifts this is PSI <= 2 margin: a shift below it is not drift.
Under the null, the expected number of ticks until the first alarm is at least the budget, however many features there
are and however they depend on each other. Rows that repeat one another (retries, sessions) are not independent, and
void that.
Sources: Shin, Ramdas & Rinaldo, New England Journal of Statistics in Data Science 2:229, 2024 (e-detectors);
Shiryaev 1963 and Roberts 1966 (the recursion). It knows neither clocks nor slots, and makes no claim for one feature:
culprits are a ranking.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from runtime.core.errors import ConfigError, ContractError
from runtime.data.counts import Counts, Float64s, Int64s
from runtime.data.profile import Profile
from runtime.monitoring.drift import PSEUDO_COUNT, SCORE, fold_categorical, fold_numeric

STATE_FORMAT = 1
_SUM_TOLERANCE = 1e-6
_CAP_NATS = 5.0
REFERENCE_SHARE = 0.25
"""Of the reference in the bet. The budget holds for any share; at a half a small shift near the margin takes twice as
long, since half of the evidence is not bet. Above 0 it bounds what a cell that empties again can cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """How rare false alarms are to be, and how large a shift has to be."""

    budget_ticks: float
    """At most one false alarm in this many ticks, over all features; 30 days of 10 s ticks are 259,200."""
    margin: float = 0.01
    """About half the PSI below which a shift is not drift. 0 takes the reference for exact, which a sample is not."""
    decays: tuple[float, ...] = (0.5, 0.9, 0.98)
    """What is left after a tick of the weight of earlier ticks: short memories find large shifts, long ones small."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget_ticks) and self.budget_ticks >= 1):
            raise ConfigError(f"budget_ticks must be finite and at least 1 but got {self.budget_ticks}")
        if not 0 <= self.margin < 1:
            raise ConfigError(f"margin must be at least 0 and below 1 but got {self.margin}")
        if not self.decays or any(not 0 < decay < 1 for decay in self.decays):
            raise ConfigError(f"decays must be one or more numbers between 0 and 1 but got {self.decays}")
        if len(set(self.decays)) != len(self.decays):
            raise ConfigError(f"decays must differ from each other but got {self.decays}")

    @classmethod
    def for_period(cls, *, period_s: float, tick_s: float, margin: float = 0.01) -> Self:
        """One false alarm in `period_s` at most."""
        if tick_s <= 0:
            raise ConfigError(f"tick_s must be above 0 but got {tick_s}")
        return cls(budget_ticks=period_s / tick_s, margin=margin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Culprit:
    """One feature's part in the evidence. No error rate goes with it."""

    feature: str
    log_evidence: float
    """Natural log of the feature's own M, the mean over decays; -inf at the start."""
    last_log_e: float
    """The last tick's evidence alone, its best decay; ranks features whose M has reached the cap."""
    since_tick: int | None
    """The tick, counted from 1, at which M last rose above 1; None while it is below."""


class DriftDetector:
    """Evidence against "nothing but the reference", one number over all features and decays.

    Memory: 2 numbers a decay and cell and 4 a feature, however long it runs.
    """

    def __init__(self, config: DetectorConfig, num_cells: Mapping[str, int]) -> None:
        """`num_cells` names the features and how many cells the counts of each have."""
        if not num_cells:
            raise ContractError("a drift detector needs at least one feature but got none")
        for feature, number in num_cells.items():
            if number < 1:
                raise ContractError(f"feature {feature!r} must have at least 1 cell but got {number}")
        self.config = config
        self._num_cells = {feature: int(number) for feature, number in num_cells.items()}
        sizes = np.array(list(num_cells.values()), dtype=np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self._owners = np.repeat(np.arange(sizes.size), sizes)
        self._decays = np.array(config.decays).reshape(-1, 1)
        num_decays, num_features = len(config.decays), sizes.size
        # A cap only lowers M, so the budget holds; it lets an alarm end soon after the drift, however long that was.
        self._cap = math.log(config.budget_ticks) + math.log(num_decays * num_features) + _CAP_NATS
        self._observed: Float64s = np.zeros((num_decays, int(sizes.sum())))
        self._expected: Float64s = np.zeros((num_decays, int(sizes.sum())))
        self._since: Int64s = np.zeros(num_features, dtype=np.int64)
        self._num_ticks = 0
        # log(1 + M) and not log M: finite at the start, where M is 0, and exact for tiny M as well.
        self._log1p_m: Float64s = np.zeros((num_decays, num_features))
        self._last_log_e: Float64s = np.zeros((num_decays, num_features))

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self._num_cells)

    @property
    def num_ticks(self) -> int:
        """Ticks with rows since the start."""
        return self._num_ticks

    @property
    def log_m(self) -> Float64s:
        """[decays, features] natural logs of M."""
        return _log_expm1(self._log1p_m)

    @property
    def log_evidence(self) -> float:
        """Natural log of the mean of M over features and decays."""
        return float(log_mean(self.log_m.ravel(), axis=0))

    @property
    def is_alarm(self) -> bool:
        return self.log_evidence >= math.log(self.config.budget_ticks)

    def update(
        self,
        counts: Mapping[str, Float64s],
        reference: Mapping[str, Float64s],
        allowance: Mapping[str, float] | None = None,
    ) -> bool:
        """Take one tick; whether the alarm stands after it.

        `reference` holds each feature's cell probabilities for this tick, all above 0: the same every tick, or those of
        the tick's hour of the week, chosen without looking at the tick's rows. `allowance` adds to the margin by
        feature, for a reference that is a small sample. A feature without rows keeps its M.
        ContractError, and nothing changed, where a feature is absent or an array does not fit.
        """
        seen = self._concatenate(counts, "counts")
        shares = self._concatenate(reference, "reference probabilities")
        self._check(seen, shares)
        rows = np.add.reduceat(seen, self._starts)
        if not rows.any():
            return self.is_alarm
        shares = shares / np.add.reduceat(shares, self._starts)[self._owners]
        log_ratios = self._log_ratios(shares)
        margins = np.array([self.config.margin + (allowance or {}).get(name, 0.0) for name in self._num_cells])
        log_e = np.add.reduceat(seen * log_ratios, self._starts, axis=1) - rows * np.log1p(margins)
        moved = np.logaddexp(0.0, np.minimum(self._log1p_m + log_e, self._cap))
        has_rows = rows > 0
        self._log1p_m = np.where(has_rows, moved, self._log1p_m)
        self._last_log_e = np.where(has_rows, log_e, self._last_log_e)
        kept = np.where(has_rows[self._owners], self._decays, 1.0)
        self._observed = kept * self._observed + seen
        self._expected = kept * self._expected + rows[self._owners] * shares
        self._num_ticks += 1
        is_above = log_mean(self.log_m, axis=0) > 0
        self._since = np.where(is_above, np.where(self._since > 0, self._since, self._num_ticks), 0)
        return self.is_alarm

    def culprits(self) -> list[Culprit]:
        """Every feature, the largest M first."""
        evidence = log_mean(self.log_m, axis=0)
        last = self._last_log_e.max(axis=0)
        found = [
            Culprit(
                feature=feature,
                log_evidence=float(evidence[index]),
                last_log_e=float(last[index]),
                since_tick=int(self._since[index]) or None,
            )
            for index, feature in enumerate(self._num_cells)
        ]
        return sorted(found, key=lambda culprit: (-culprit.log_evidence, -culprit.last_log_e, culprit.feature))

    def restart(self) -> None:
        """Drop the evidence and keep what was learnt of the traffic: the budget counts from here."""
        self._log1p_m = np.zeros_like(self._log1p_m)
        self._last_log_e = np.zeros_like(self._last_log_e)
        self._since = np.zeros_like(self._since)

    def to_json(self) -> dict[str, Any]:
        """Plain containers and finite floats; `from_json` gives the same detector to the last bit."""
        return {
            "format": STATE_FORMAT,
            "config": asdict(self.config) | {"decays": list(self.config.decays)},
            "num_cells": self._num_cells,
            "num_ticks": self._num_ticks,
            "log1p_m": self._log1p_m.tolist(),
            "last_log_e": self._last_log_e.tolist(),
            "since": self._since.tolist(),
            "observed": self._observed.tolist(),
            "expected": self._expected.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """ContractError if `value` is not the state of a detector."""
        if value.get("format") != STATE_FORMAT:
            raise ContractError(
                f"the detector's state has format {value.get('format')!r}, not {STATE_FORMAT}: start a new detector"
            )
        try:
            config = value["config"]
            detector = cls(DetectorConfig(**{**config, "decays": tuple(config["decays"])}), value["num_cells"])
            detector._num_ticks = int(value["num_ticks"])
            detector._log1p_m = _restored("log1p_m", value, detector._log1p_m)
            detector._last_log_e = _restored("last_log_e", value, detector._last_log_e)
            detector._since = _restored("since", value, detector._since).astype(np.int64)
            detector._observed = _restored("observed", value, detector._observed)
            detector._expected = _restored("expected", value, detector._expected)
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f"the detector's state is broken ({error!r}): start a new detector") from error
        return detector

    def _log_ratios(self, shares: Float64s) -> Float64s:
        """[decays, cells] log q/p before this tick's rows are seen.

        What is remembered is observed over expected, so that a reference that changes with the hour does not look like
        a change of the traffic; with one reference this is q = p/4 + 3/4 EWMA. A prior of one row a cell keeps thin
        ticks calm.
        """
        sizes = np.bincount(self._owners)
        prior = shares * sizes[self._owners]
        tilts = (self._observed + prior) / (self._expected + prior)
        totals = np.add.reduceat(shares * tilts, self._starts, axis=1)
        ratios: Float64s = np.log(REFERENCE_SHARE + (1 - REFERENCE_SHARE) * tilts / totals[:, self._owners])
        return ratios

    def _concatenate(self, arrays: Mapping[str, Float64s], what: str) -> Float64s:
        if arrays.keys() != self._num_cells.keys():
            missing = sorted(self._num_cells.keys() - arrays.keys())
            unknown = sorted(arrays.keys() - self._num_cells.keys())
            raise ContractError(f"{what} must be of the detector's features; missing {missing}, unknown {unknown}")
        for feature, number in self._num_cells.items():
            if np.shape(arrays[feature]) != (number,):
                raise ContractError(
                    f"{what} of {feature!r} must have {number} cells but got shape {np.shape(arrays[feature])}"
                )
        return np.concatenate([np.asarray(arrays[feature], dtype=np.float64) for feature in self._num_cells])

    def _check(self, seen: Float64s, shares: Float64s) -> None:
        bad = ~(np.isfinite(seen) & (seen >= 0))
        if bad.any():
            raise ContractError(f"counts of {self._name(bad)!r} must be 0 or more but got {seen[bad][0]}")
        bad = ~(shares > 0)
        if bad.any():
            raise ContractError(
                f"reference probabilities of {self._name(bad)!r} must be above 0 but got {shares[bad][0]}: "
                "smooth them with reference_probabilities"
            )
        totals = np.add.reduceat(shares, self._starts)
        wrong = ~(np.abs(totals - 1) <= _SUM_TOLERANCE)
        if wrong.any():
            name = self.features[int(np.argmax(wrong))]
            raise ContractError(f"reference probabilities of {name!r} must sum to 1 but got {totals[wrong][0]}")

    def _name(self, bad: Any) -> str:
        return self.features[int(self._owners[int(np.argmax(bad))])]


def fold_cells(profile: Profile, counts: Counts) -> dict[str, Float64s]:
    """Counts by feature in the cells that the profile's reference gives, the score last where the profile has one.

    Live counts and those of an hour of the week fold alike. ContractError if they are of other features.
    """
    reference = profile.counts
    if reference.shape != counts.shape:
        raise ContractError(f"counts of {counts.shape} features do not fit a profile of {reference.shape}")
    cells: dict[str, Float64s] = {}
    for name, expected, seen in zip(profile.numeric, reference.numeric, counts.numeric, strict=True):
        cells[name] = fold_numeric(expected, seen)[1]
    for name, expected, seen in zip(profile.categorical, reference.categorical, counts.categorical, strict=True):
        cells[name] = fold_categorical(expected, seen)[1]
    if reference.score.any():
        cells[SCORE] = fold_numeric(reference.score, counts.score)[1]
    return cells


def reference_probabilities(cells: Mapping[str, Float64s]) -> dict[str, Float64s]:
    """Shares of folded reference counts; half a count is added to each cell, so that none is 0."""
    return {
        feature: (counts + PSEUDO_COUNT) / (counts.sum() + PSEUDO_COUNT * counts.size)
        for feature, counts in cells.items()
    }


def log_mean(logs: Float64s, *, axis: int | Sequence[int]) -> Float64s:
    """Log of the mean of exp(logs), without overflow."""
    axes = axis if isinstance(axis, int) else tuple(axis)
    highest = np.maximum(logs.max(axis=axes, keepdims=True), -1e300)
    with np.errstate(divide="ignore"):
        means: Float64s = np.log(np.exp(logs - highest).mean(axis=axes)) + np.squeeze(highest, axis=axes)
    return means


def _log_expm1(values: Float64s) -> Float64s:
    """log(exp(values) - 1) of values of 0 or more."""
    with np.errstate(divide="ignore"):
        small: Float64s = np.log(np.expm1(np.minimum(values, 30.0)))
    return np.where(values < 30.0, small, values + np.log1p(-np.exp(-np.maximum(values, 30.0))))


def _restored(name: str, state: Mapping[str, Any], like: Any) -> Any:
    array = np.array(state[name], dtype=np.float64)
    if array.shape != like.shape or not np.isfinite(array).all():
        raise ContractError(f"{name} of the detector's state must be {like.shape} finite numbers: start a new detector")
    return array
