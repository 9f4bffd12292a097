"""How long a request was on its way from the edge's first look at it: body, line and network.

The edge says by its own clock when a request arrived. On the same machine that is this clock. Another machine's may be
ahead or behind by seconds, so nothing is taken from it but differences: the smallest delay that was lately seen from
there counts as none. The edge's checks, which stand in no line, bring one every second.
"""

import socket
import time
from collections.abc import Callable

WINDOW_S = 60.0
"""After one to two of which a smallest delay is forgotten, so that drifting clocks are followed."""
MAX_EDGES = 256
MAX_WAIT_MS = 600_000


class _Baseline:
    """The smallest delay of this window and of the one before, in milliseconds."""

    def __init__(self, at_s: float) -> None:
        self._since_s = at_s
        self._before: float | None = None
        self._now: float | None = None

    def smallest(self, delay_ms: float, at_s: float) -> float:
        """With this delay among those seen."""
        if at_s - self._since_s >= WINDOW_S:
            # After a longer pause the window before is too old to be worth anything.
            self._before = self._now if at_s - self._since_s < 2 * WINDOW_S else None
            self._now = None
            self._since_s = at_s
        self._now = delay_ms if self._now is None else min(self._now, delay_ms)
        return self._now if self._before is None else min(self._now, self._before)


class ArrivalClock:
    """For one event loop."""

    def __init__(self, *, host: str | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`host`: this machine's name, as an edge on it would call it."""
        self._host = (host or socket.gethostname()).encode()
        self._monotonic = monotonic
        self._baselines: dict[bytes, _Baseline] = {}

    def waited_ns(self, arrived: bytes, at_ns: int) -> int:
        """From arrival at the edge until `at_ns` here. `arrived`: HOST/MILLISECONDS since 1970; else 0."""
        host, _, milliseconds = arrived.rpartition(b"/")
        if not milliseconds.isdigit() or len(milliseconds) > 16:
            return 0
        delay_ms = at_ns / 1e6 - int(milliseconds)
        if host != self._host:
            at_s = self._monotonic()
            if (baseline := self._baselines.get(host)) is None:
                if len(self._baselines) >= MAX_EDGES:
                    return 0
                baseline = self._baselines[host] = _Baseline(at_s)
            delay_ms -= baseline.smallest(delay_ms, at_s)
        return round(min(max(delay_ms, 0.0), MAX_WAIT_MS) * 1e6)
