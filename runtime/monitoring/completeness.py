"""Up to when all that replicas counted is in: a delta may come late, when its replica could not push for a while.

In memory alone: after a restart it is unknown until every replica has pushed again, which takes a second.
"""

import threading

from runtime.monitoring.deltas import Series

GONE_S = 30.0
"""A replica that was silent for so long is gone, and nothing is waited for that it may still hold."""
MAX_REPLICAS = 4096

Marks = dict[Series, dict[str, float]]
"""Series to replica to the moment its last delta was taken, seconds since 1970."""


class Completeness:
    """Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offered: Marks = {}
        self._counted: Marks = {}

    def offer(self, series: Series, replica: str, taken_at: float) -> None:
        with self._lock:
            marks = self._offered.setdefault(series, {})
            marks[replica] = max(taken_at, marks.get(replica, 0.0))
            while len(marks) > MAX_REPLICAS:
                del marks[min(marks, key=lambda name: marks[name])]

    def offered(self) -> Marks:
        """Ask before the deltas are written, and give it to `count` when they are."""
        with self._lock:
            return {series: dict(marks) for series, marks in self._offered.items()}

    def count(self, offered: Marks) -> None:
        with self._lock:
            self._counted = offered

    def until(self, series: Series, now: float) -> float | None:
        """What every replica of the series that is not gone has delivered; None if none is known."""
        with self._lock:
            marks = self._counted.get(series, {})
            return min((taken_at for taken_at in marks.values() if taken_at > now - GONE_S), default=None)
