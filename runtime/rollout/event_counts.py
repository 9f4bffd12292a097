"""What the analysis counts in one tick, and how raw observations become such counts.

A tick has one share: where traffic moved within it, count what each share saw apart, as two ticks.
"""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.core.errors import ContractError
from runtime.telemetry.latency import NUM_BUCKETS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PAST_DECAY = 0.9
"""How much of the primary's past latencies still counts a tick later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventCounts:
    """Requests and how many of them had the event, by slot."""

    canary_requests: int
    canary_events: int
    primary_requests: int
    primary_events: int

    def __post_init__(self) -> None:
        for slot, events, requests in (
            ("canary", self.canary_events, self.canary_requests),
            ("primary", self.primary_events, self.primary_requests),
        ):
            if not 0 <= events <= requests:
                raise ContractError(f"{slot}: events must be within 0..{requests} requests but got {events}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueSums:
    """Moments of a real-valued metric, by slot."""

    canary_rows: int
    canary_sum: float
    canary_squares: float
    primary_rows: int
    primary_sum: float
    primary_squares: float

    def __post_init__(self) -> None:
        moments = (self.canary_sum, self.canary_squares, self.primary_sum, self.primary_squares)
        if min(self.canary_rows, self.primary_rows) < 0 or not np.isfinite(moments).all():
            raise ContractError(f"value sums must be finite over at least 0 rows but got {self}")


def sum_values(canary: npt.ArrayLike, primary: npt.ArrayLike) -> ValueSums:
    values_c, values_b = np.asarray(canary, dtype=np.float64), np.asarray(primary, dtype=np.float64)
    return ValueSums(
        canary_rows=values_c.size,
        canary_sum=float(values_c.sum()),
        canary_squares=float(values_c @ values_c),
        primary_rows=values_b.size,
        primary_sum=float(values_b.sum()),
        primary_squares=float(values_b @ values_b),
    )


def count_events(
    is_canary: npt.ArrayLike,
    is_event: npt.ArrayLike,
    *,
    keys: npt.NDArray[np.str_] | None = None,
    max_events_per_key: int = 1,
    spent: Set[str] = frozenset(),
) -> EventCounts:
    """Counts of one tick's requests. With sticky keys, a key's events beyond the cap count as plain requests.

    A sticky key is assigned once and stays, so its requests are not independent trials: one broken client would convict
    the slot it was dealt to. The cap bounds what a key weighs in a tick; it leaves the same key to speak again in every
    later one, which no α survives. Keys in `spent` say nothing any more: with the keys of all earlier events there,
    each key counts once in a rollout, as its one random assignment does.
    """
    canary = np.asarray(is_canary, dtype=bool)
    event = np.asarray(is_event, dtype=bool)
    if canary.shape != event.shape or (keys is not None and len(keys) != canary.size):
        raise ContractError(
            f"slots, events and keys must be of one length but got {canary.size}, {event.size} and "
            f"{'no' if keys is None else len(keys)} keys"
        )
    if max_events_per_key < 1:
        raise ContractError(f"a key's cap must be at least 1 but got {max_events_per_key}")
    if keys is not None and event.any():
        if spent:
            event = event & ~np.isin(keys, list(spent))
        event = event & (_rank_within_key(keys, event) < max_events_per_key)
    return EventCounts(
        canary_requests=int(canary.sum()),
        canary_events=int((canary & event).sum()),
        primary_requests=int((~canary).sum()),
        primary_events=int((~canary & event).sum()),
    )


def keys_with_events(keys: npt.NDArray[np.str_], is_event: npt.ArrayLike) -> frozenset[str]:
    """What a tick adds to `spent`."""
    return frozenset(keys[np.asarray(is_event, dtype=bool)].tolist())


def _rank_within_key(keys: npt.NDArray[np.str_], event: npt.NDArray[np.bool_]) -> Ints:
    """For each event the number of earlier events of its key."""
    ranks = np.zeros(keys.size, dtype=np.int64)
    (where,) = np.nonzero(event)
    _, numbers = np.unique(keys[where], return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.r_[0, np.flatnonzero(np.diff(ordered)) + 1]
    run = np.repeat(starts, np.diff(np.r_[starts, ordered.size]))
    ranks[where[order]] = np.arange(ordered.size) - run
    return ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyPast:
    """The primary's latencies of past ticks, fading. What a tick's thresholds are taken from.

    A threshold taken from the tick itself would not be predictable, and the evidence would be none.
    """

    counts: Floats
    """[..., 98] of telemetry.latency, faded."""

    @classmethod
    def empty(cls, *leading: int) -> "LatencyPast":
        return cls(counts=np.zeros((*leading, NUM_BUCKETS)))

    def after(self, primary: npt.ArrayLike) -> "LatencyPast":
        """The past as the next tick sees it. A tick without traffic fades nothing."""
        seen = np.asarray(primary, dtype=np.float64)
        has_seen = seen.sum(axis=-1, keepdims=True) > 0
        return LatencyPast(counts=np.where(has_seen, self.counts * PAST_DECAY + seen, self.counts))

    def bucket(self, quantile: float) -> Ints:
        """The bucket whose upper bound is the threshold: the one nearest to the quantile. -1 without a past."""
        total = self.counts.sum(axis=-1, keepdims=True)
        cumulative = np.cumsum(self.counts, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.abs(cumulative / total - quantile)
        nearest = np.argmin(np.where(np.isnan(off), np.inf, off), axis=-1)
        nearest = np.minimum(nearest, NUM_BUCKETS - 2)
        buckets: Ints = np.where(total[..., 0] > 0, nearest, -1)
        return buckets

    def count_slower(self, latencies: npt.ArrayLike, quantile: float) -> Ints:
        """How many of these latencies, [..., 98] counts, lie above the threshold; 0 without a past."""
        buckets = self.bucket(quantile)[..., None]
        is_slower = (np.arange(NUM_BUCKETS) > buckets) & (buckets >= 0)
        slower: Ints = np.where(is_slower, np.asarray(latencies), 0).sum(axis=-1)
        return slower

    def events(self, canary: npt.ArrayLike, primary: npt.ArrayLike, quantile: float) -> EventCounts | None:
        """One comparison's slow requests; None before there is a past to take a threshold from."""
        if self.bucket(quantile) < 0:
            return None
        return EventCounts(
            canary_requests=int(np.sum(canary)),
            canary_events=int(self.count_slower(canary, quantile)),
            primary_requests=int(np.sum(primary)),
            primary_events=int(self.count_slower(primary, quantile)),
        )
