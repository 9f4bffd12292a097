"""What the answers of a load say: shares by generation, latency by slot, the last answer a slot began. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runtime.pipeline.load import Answer

CONFIDENCE = 0.999


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservedShare:
    """A slot's share under one generation, next to what the target lets expect."""

    target: float
    observed: float
    num_answers: int
    interval_low: float
    interval_high: float

    @property
    def is_within(self) -> bool:
        return self.interval_low <= self.observed <= self.interval_high


def binomial_interval(share: float, num_answers: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Where the observed share of `num_answers` independent keys falls with probability `confidence` at least."""
    tail = (1 - confidence) / 2
    distribution = stats.binom(num_answers, share)
    return float(distribution.ppf(tail)) / num_answers, float(distribution.ppf(1 - tail)) / num_answers


def observed_share(answers: Iterable[Answer], generations: set[int], slot: str, target: float) -> ObservedShare:
    """Share of a slot among the answers that these generations routed. ValueError if there were none."""
    slots = [answer.slot for answer in answers if answer.generation in generations]
    if not slots:
        raise ValueError(f"no answer was routed by generations {sorted(generations)}")
    low, high = binomial_interval(target, len(slots))
    return ObservedShare(
        target=target,
        observed=slots.count(slot) / len(slots),
        num_answers=len(slots),
        interval_low=low,
        interval_high=high,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotSecond:
    """One slot in one second of the load."""

    second: int
    """Since the load's first request."""
    slot: str
    num_answers: int
    share: float
    p50_ms: float
    p95_ms: float


def by_second(answers: Sequence[Answer], started_at: float) -> list[SlotSecond]:
    """Share and latency of each slot, second by second."""
    cells: dict[tuple[int, str], list[float]] = {}
    totals: dict[int, int] = {}
    for answer in answers:
        if not answer.slot:
            continue
        second = int(answer.started_at - started_at)
        cells.setdefault((second, answer.slot), []).append(answer.latency_ms)
        totals[second] = totals.get(second, 0) + 1
    series = []
    for (second, slot), latencies in sorted(cells.items()):
        p50, p95 = np.percentile(latencies, [50, 95])
        series.append(
            SlotSecond(
                second=second,
                slot=slot,
                num_answers=len(latencies),
                share=len(latencies) / totals[second],
                p50_ms=float(p50),
                p95_ms=float(p95),
            )
        )
    return series


def last_start_ms(answers: Iterable[Answer], slot: str, since: float) -> float:
    """Milliseconds from `since` (seconds since 1970) to the start of the last request that the slot answered.

    0 if it answered none that started after `since`.
    """
    starts = [answer.started_at for answer in answers if answer.slot == slot and answer.started_at > since]
    return (max(starts) - since) * 1000 if starts else 0.0
