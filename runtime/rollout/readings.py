"""Counts that only grow, read now and then, and what happened between two readings, as the analysis counts it.

An edge counts what clients saw, by backend. Replicas count latencies and scores. Neither counts by key, so a client
that sends x-routing-key is counted as often as it asks: see docs/rollout-statistics.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
ZEROS: Counted = {"requests": [0], "errors": [0], "refused": [0], "latency": [0] * 98, "score": [0, 0, 0]}


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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reading":
        return cls(**values)


def counts_between(before: Reading, after: Reading) -> dict[str, Counted] | None:
    """What each slot counted between the readings; None where the endpoint's generation is not the same.

    A counter that began again counts from nothing: what came between the old reading and the new beginning is lost for
    both slots alike.
    """
    if before.generation != after.generation:
        return None
    return {slot: _grown(before, after, slot) for slot in SLOTS}


def has_traffic(counts: Mapping[str, Counted] | None) -> bool:
    """Whether both slots answered something: otherwise there is nothing to compare, and the reading can wait."""
    return counts is not None and all(counts[slot]["requests"][0] > 0 for slot in SLOTS)


def metric_counts(
    plan: RolloutConfig,
    counts: Mapping[Source, Mapping[str, Counted] | None],
    canary: str,
    primary: str,
    past: LatencyPast,
) -> dict[str, MetricCounts | None]:
    """The analysis' counts of one tick, by metric; None for those whose source had nothing to say."""
    found: dict[str, MetricCounts | None] = {}
    for name, metric in plan.metrics.items():
        read = counts.get(SOURCE_OF_KIND[metric.kind])
        if metric.kind == "score":
            sums = None if read is None else _score_sums(read[canary]["score"], read[primary]["score"])
            found |= dict.fromkeys(score_names(name), sums)
        elif read is None:
            found[name] = None
        elif metric.kind == "latency":
            assert metric.quantile is not None
            found[name] = past.events(read[canary]["latency"], read[primary]["latency"], metric.quantile)
        else:
            found[name] = EventCounts(
                canary_requests=int(read[canary]["requests"][0]),
                canary_events=int(read[canary]["errors"][0]),
                primary_requests=int(read[primary]["requests"][0]),
                primary_events=int(read[primary]["errors"][0]),
            )
    return found


def _grown(before: Reading, after: Reading, slot: str) -> Counted:
    now = after.slots.get(slot, ZEROS)
    then = before.slots.get(slot, ZEROS)
    began_again = before.epoch != after.epoch or now["requests"][0] < then["requests"][0]
    if began_again:
        return now
    return {name: (np.array(cells) - np.array(then.get(name, ZEROS[name]))).tolist() for name, cells in now.items()}


def _score_sums(canary: list[float], primary: list[float]) -> ValueSums:
    return ValueSums(
        canary_rows=int(canary[0]),
        canary_sum=canary[1],
        canary_squares=canary[2],
        primary_rows=int(primary[0]),
        primary_sum=primary[1],
        primary_squares=primary[2],
    )
