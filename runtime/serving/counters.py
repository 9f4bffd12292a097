"""What a replica counts, and its way to the monitor: small deltas with a sequence number, sent until acknowledged."""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.data.accumulate import Counts
from runtime.telemetry.latency import BOUNDS_MS, NUM_BUCKETS

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Tally:
    """Requests since the last push. For one thread: the replica's event loop."""

    requests: int = 0
    rows: int = 0
    errors: int = 0
    """Answers with status 500 and above: the replica's fault."""
    refused: int = 0
    """Answers with status 400 to 499: the caller's fault."""
    latency_ms_counts: list[int] = field(default_factory=lambda: [0] * NUM_BUCKETS)

    def add(self, status: int, rows: int, latency_ms: float) -> None:
        self.requests += 1
        self.rows += rows
        self.errors += status >= 500
        self.refused += 400 <= status < 500
        self.latency_ms_counts[bisect_left(BOUNDS_MS, latency_ms)] += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """What happened between two pushes."""

    requests: int
    rows: int
    errors: int
    refused: int
    latency_ms_counts: npt.NDArray[np.int64]
    counts: Counts
    dropped_rows: int = 0
    """Answered rows that the payload log lost because its buffer was full or they could not be written."""

    def merge(self, other: "Delta") -> "Delta":
        return Delta(
            requests=self.requests + other.requests,
            rows=self.rows + other.rows,
            errors=self.errors + other.errors,
            refused=self.refused + other.refused,
            latency_ms_counts=self.latency_ms_counts + other.latency_ms_counts,
            counts=self.counts.merge(other.counts),
            dropped_rows=self.dropped_rows + other.dropped_rows,
        )


class Pusher:
    """Sends deltas from a thread of its own, so that a slow or absent monitor is nobody's trouble.

    A delta that may have arrived keeps its number and is sent again as it was; what comes meanwhile is merged.
    """

    def __init__(
        self,
        take: Callable[[], Delta],
        send: Callable[[dict[str, Any]], None],
        *,
        identity: dict[str, str],
        interval_s: float,
    ) -> None:
        """`take` gives and resets what was counted; `send` delivers one message or raises."""
        self._take = take
        self._send = send
        self._identity = identity
        self._interval_s = interval_s
        self._in_doubt: Delta | None = None
        self._waiting: Delta | None = None
        self._doubt_taken_at = self._waiting_taken_at = 0.0
        self._sequence = 0
        self._failures = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counts to the monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout_s: float) -> bool:
        """Push what is left and end the thread; False if that takes longer. Not for the event loop: it has to take."""
        self._closing.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def status(self) -> dict[str, int]:
        return {"sequence": self._sequence, "failures": self._failures}

    def push(self) -> bool:
        """Take, and send the oldest delta that was not acknowledged; False if that failed."""
        taken_at = time.time()
        fresh = self._take()
        self._waiting_taken_at = taken_at
        self._waiting = fresh if self._waiting is None else self._waiting.merge(fresh)
        if self._in_doubt is None:
            self._sequence += 1
            self._in_doubt, self._waiting = self._waiting, None
            self._doubt_taken_at = self._waiting_taken_at
        delta = self._in_doubt
        message = {
            **self._identity,
            "sequence": self._sequence,
            # With it the monitor has all that this replica counted before.
            "taken_at": self._doubt_taken_at,
            "requests": delta.requests,
            "rows": delta.rows,
            "errors": delta.errors,
            "refused": delta.refused,
            "latency_ms_counts": delta.latency_ms_counts,
            "counts": delta.counts,
            "dropped_rows": delta.dropped_rows,
        }
        try:
            self._send(message)
        except Exception as error:  # noqa: BLE001 - whatever the monitor's trouble is, serving goes on
            self._failures += 1
            if self._failures in (1, 10) or self._failures % 1000 == 0:
                logger.warning("the monitor takes no counts (%d times): %s", self._failures, error)
            return False
        self._in_doubt = None
        return True

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._push_safely()
        # What is in doubt goes first; what came meanwhile needs a push of its own.
        while self._push_safely() and self._waiting is not None:
            pass

    def _push_safely(self) -> bool:
        try:
            return self.push()
        except Exception:
            logger.exception("counts could not be taken")
            self._failures += 1
            return False
