"""Counts that only grow, read now and then, and what happened between two readings, as the analysis counts it.

An edge counts what clients saw, by backend. Replicas count latencies and scores. Errors are also known by routing key;
the rest is not, and a client that sends x-routing-key is counted as often as it asks: see docs/rollout-statistics.md.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from runtime.config.rollout import RolloutConfig
from runtime.rollout.analysis import MetricCounts
from runtime.rollout.event_counts import EventCounts, LatencyPast, ValueSums
from runtime.rollout.plan import score_names
from runtime.store.records import SLOTS

Source = Literal["edge", "replicas"]
SOURCES: tuple[Source, Source] = ("edge", "replicas")
SOURCE_OF_KIND: dict[str, Source] = {"errors": "edge", "latency": "replicas", "score": "replicas"}
Counted = dict[str, list[float]]
"""Counter to its cells: `requests` and `errors` have one, `latency` 98, `score` three (rows, sum, squares)."""
FailedKeys = dict[str, dict[str, int]]
"""Slot to hash of a routing key to how often it met an error."""
ZEROS: Counted = {"requests": [0], "errors": [0], "refused": [0], "latency": [0] * 98, "score": [0, 0, 0]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """The counters of one process of an edge, which began with it and ended with it."""

    began_at: float
    slots: dict[str, Counted]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """All counters of an endpoint from one source."""

    source: Source
    at: float
    generation: int
    """Of the endpoint when it was read, and since the share was settled."""
    epoch: str
    """Names the life of whoever counts: with another one, counters began again."""
    slots: dict[str, Counted]
    failed_keys: FailedKeys | None = None
    """For sticky plans, from the edge."""
    lives: dict[str, Life] = field(default_factory=dict)
    """Of all processes of all edges, dead ones as they were last read; `slots` is empty then."""
    complete_until: float | None = math.inf
    """What was counted until then is in; None where that is not known."""

    def to_json(self) -> dict[str, Any]:
        """As a baseline, for which `complete_until` has been looked at."""
        values = asdict(self)
        del values["complete_until"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reading":
        lives = {name: Life(**life) for name, life in values.get("lives", {}).items()}
        return cls(**{**values, "lives": lives})


def counts_between(before: Reading, after: Reading) -> dict[str, Counted] | None:
    """What each slot counted between the readings; None where the endpoint's generation is not the same.

    A counter that began again counts from nothing: what came between the old reading and the new beginning is lost for
    both slots alike.
    """
    if before.generation != after.generation or bool(before.lives) != bool(after.lives):
        return None
    if after.lives:
        return {slot: _grown_in_lives(before, after, slot) for slot in SLOTS}
    return {slot: _grown(before, after, slot) for slot in SLOTS}


def fresh_keys(before: Reading, after: Reading, spent: Collection[str]) -> dict[str, frozenset[str]] | None:
    """Slot to the keys that met an error between the readings, and none before in the rollout. None if unknown."""
    if before.failed_keys is None or after.failed_keys is None:
        return None
    then: FailedKeys = before.failed_keys if before.epoch == after.epoch else {}
    return {
        slot: frozenset(
            key for key, number in failed.items() if number > then.get(slot, {}).get(key, 0) and key not in spent
        )
        for slot, failed in after.failed_keys.items()
    }


def has_traffic(counts: Mapping[str, Counted] | None) -> bool:
    """Whether both slots answered something: otherwise there is nothing to compare, and the reading can wait."""
    return counts is not None and all(counts[slot]["requests"][0] > 0 for slot in SLOTS)


def metric_counts(
    plan: RolloutConfig,
    counts: Mapping[Source, Mapping[str, Counted] | None],
    canary: str,
    primary: str,
    past: LatencyPast,
    keys: Mapping[str, Collection[str]] | None = None,
) -> dict[str, MetricCounts | None]:
    """The analysis' counts of one tick, by metric; None for those whose source had nothing to say.

    `keys`: slot to the `fresh_keys`, which are the events of a sticky plan.
    """
    found: dict[str, MetricCounts | None] = {}
    for name, metric in plan.metrics.items():
        if metric.kind == "feedback":
            continue  # its labels come later, see `labels`
        read = counts.get(SOURCE_OF_KIND[metric.kind])
        if metric.kind == "score":
            sums = None if read is None else _score_sums(read[canary]["score"], read[primary]["score"])
            found |= dict.fromkeys(score_names(name), sums)
        elif read is None:
            found[name] = None
        elif metric.kind == "latency":
            assert metric.quantile is not None
            found[name] = past.events(read[canary]["latency"], read[primary]["latency"], metric.quantile)
        elif plan.is_sticky:
            found[name] = None if keys is None else _key_counts(read, keys, canary, primary)
        else:
            found[name] = EventCounts(
                canary_requests=int(read[canary]["requests"][0]),
                canary_events=int(read[canary]["errors"][0]),
                primary_requests=int(read[primary]["requests"][0]),
                primary_events=int(read[primary]["errors"][0]),
            )
    return found


def _key_counts(
    read: Mapping[str, Counted], keys: Mapping[str, Collection[str]], canary: str, primary: str
) -> EventCounts:
    """Requests say how much was seen, keys alone speak for or against. A request may fail between two questions to the
    edge, and count in the tick before its key does."""
    events = {slot: len(keys.get(slot, ())) for slot in (canary, primary)}
    return EventCounts(
        canary_requests=max(int(read[canary]["requests"][0]), events[canary]),
        canary_events=events[canary],
        primary_requests=max(int(read[primary]["requests"][0]), events[primary]),
        primary_events=events[primary],
    )


def _grown(before: Reading, after: Reading, slot: str) -> Counted:
    now = after.slots.get(slot, ZEROS)
    then = before.slots.get(slot, ZEROS)
    began_again = before.epoch != after.epoch or now["requests"][0] < then["requests"][0]
    if began_again:
        return now
    return {name: (np.array(cells) - np.array(then.get(name, ZEROS[name]))).tolist() for name, cells in now.items()}


def _grown_in_lives(before: Reading, after: Reading, slot: str) -> Counted:
    """A life that nobody had read counts from its beginning if that came later; else from now on."""
    sums = dict.fromkeys(("requests", "errors", "refused"), 0.0)
    for name, life in after.lives.items():
        then = before.lives.get(name)
        if then is None and life.began_at <= before.at:
            continue
        if then is not None and life.slots[slot]["requests"][0] < then.slots[slot]["requests"][0]:
            continue  # a worker that a reload replaced has forgotten some of it
        for counter in sums:
            sums[counter] += life.slots[slot][counter][0] - (0.0 if then is None else then.slots[slot][counter][0])
    return {name: [total] for name, total in sums.items()}


def _score_sums(canary: list[float], primary: list[float]) -> ValueSums:
    return ValueSums(
        canary_rows=int(canary[0]),
        canary_sum=canary[1],
        canary_squares=canary[2],
        primary_rows=int(primary[0]),
        primary_sum=primary[1],
        primary_squares=primary[2],
    )
