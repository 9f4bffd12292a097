"""Latencies as counts in fixed buckets, which merge exactly over replicas and time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

GROWTH = 1.15
FIRST_BOUND_MS = 0.1
NUM_BOUNDS = 97

BOUNDS_MS: tuple[float, ...] = tuple(FIRST_BOUND_MS * GROWTH**k for k in range(NUM_BOUNDS))
"""Upper bounds, 0.1 ms to 67 s; one more bucket is open above. A quantile is off by at most 15 %."""
NUM_BUCKETS = NUM_BOUNDS + 1

_BOUNDS = np.array(BOUNDS_MS)


def count_latencies(latencies_ms: Sequence[float] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """[98] counts of latencies; a value equal to a bound is below it."""
    return np.bincount(np.searchsorted(_BOUNDS, np.asarray(latencies_ms, dtype=float)), minlength=NUM_BUCKETS)


def latency_quantile_ms(counts: npt.NDArray[np.int64], quantile: float) -> float | None:
    """The quantile, interpolated within its bucket; None where nothing was counted.

    In the open bucket it is the highest bound: at least that much.
    """
    total = int(counts.sum())
    if not total:
        return None
    cumulative = np.cumsum(counts)
    rank = quantile * total
    bucket = int(np.searchsorted(cumulative, rank))
    if bucket >= NUM_BOUNDS:
        return BOUNDS_MS[-1]
    low = BOUNDS_MS[bucket - 1] if bucket else 0.0
    before = float(cumulative[bucket - 1]) if bucket else 0.0
    return float(low + (BOUNDS_MS[bucket] - low) * (rank - before) / max(float(counts[bucket]), 1.0))
