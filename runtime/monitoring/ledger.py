"""The monitor's memory: totals and ticks of every series, in the control store before a delta is acknowledged.

Deltas are taken in together: `offer` puts one aside, `write` keeps all that wait in one transaction, and only then do
they count. A tick's end is one transaction too: its counts, the state of every endpoint, and the sequence numbers seen.
Whoever takes over after a kill at any point, on whatever machine, finds each acknowledged delta exactly once.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from runtime.core.errors import ContractError
from runtime.monitoring.deltas import Delta, SeenDeltas, Series, Tally, add_tallies
from runtime.monitoring.packing import pack, tallies_from_json, tallies_json, unpack
from runtime.store.monitor_counts import MonitorStore, TickEnd, TickRow, WindowRow

logger = logging.getLogger(__name__)

FORMAT = 3
MAX_SERIES = 256
"""Totals kept; beyond it the series that was silent longest is forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A closed stretch of time, half open, in seconds since 1970."""

    number: int
    since: float
    until: float
    tallies: dict[Series, Tally]
    endpoints: frozenset[str]
    """All that are known, also those that were silent."""


class Follower(Protocol):
    """Takes every tick exactly once: what it keeps is written in the same transaction as the tick's end."""

    name: ClassVar[str]

    def advance(self, tick: Tick) -> list[WindowRow]:
        """Take the tick in. What is returned is written with it; endpoints that the tick does not name are gone."""

    def snapshot(self) -> Any:
        """What `restore` goes back to, in this process, if the tick cannot be written."""

    def restore(self, snapshot: Any) -> None: ...

    def to_json(self, endpoint: str) -> Any:
        """None if nothing is known of it."""

    def load(self, endpoint: str, value: Any) -> None:
        """Go on from what `to_json` gave. ContractError if it is not understood; the endpoint is then as new."""


@dataclass(kw_only=True, slots=True)
class _Group:
    """Deltas that came between two writes, merged; they become one part of the journal."""

    tallies: dict[Series, Tally] = field(default_factory=dict)
    keys: dict[tuple[str, str, int], float] = field(default_factory=dict)
    """Endpoint, replica and sequence to when it came."""
    part: int = 0
    """Its number once it is being written; 0 before."""


class Ledger:
    """Safe for many threads. One process at a time owns a shard: the last that began."""

    def __init__(
        self,
        store: MonitorStore,
        *,
        shard: int = 0,
        num_shards: int = 1,
        owns: Callable[[str], bool],
        num_ticks_kept: int,
        now: float,
        followers: Sequence[Follower] = (),
    ) -> None:
        self.lock = threading.RLock()
        """Guards the memory; it is not held while the store writes."""
        self._writing = threading.RLock()
        self.since = now
        self.num_deltas = 0
        self.num_duplicates = 0
        self.num_refused = 0
        self.num_forgotten = 0
        self._store = store
        self._followers = followers
        self._seen: dict[str, SeenDeltas] = {}
        self._closed: dict[Series, Tally] = {}
        self._ticks: deque[TickRow] = deque(maxlen=num_ticks_kept)
        self._open: dict[Series, Tally] = {}
        self._open_number = 0
        self._open_since = now
        self._through = 0
        self._waiting = _Group()
        self._in_doubt: _Group | None = None
        self._stored: set[str] = set()
        """Endpoints of which the store holds something."""
        self._restore(shard, num_shards, owns)

    @property
    def last_tick_at(self) -> float:
        return self._open_since

    @property
    def num_replicas(self) -> int:
        """Replicas heard of in the last day."""
        return sum(len(seen) for seen in self._seen.values())

    def offer(self, delta: Delta) -> bool:
        """Put a delta aside for the next `write`. False if it was there before. ContractError if it does not fit."""
        endpoint = delta.series.endpoint
        key = (endpoint, delta.replica, delta.sequence)
        with self.lock:
            groups = [self._waiting, *([] if self._in_doubt is None else [self._in_doubt])]
            is_kept = endpoint in self._seen and (delta.replica, delta.sequence) in self._seen[endpoint]
            if is_kept or any(key in group.keys for group in groups):
                self.num_duplicates += 1
                return False
            for known in (self._closed, self._open, *(group.tallies for group in groups)):
                if delta.series in known and known[delta.series].counts.shape != delta.tally.counts.shape:
                    known[delta.series].merge(delta.tally)  # raises, and says why
            add_tallies(self._waiting.tallies, {delta.series: delta.tally})
            self._waiting.keys[key] = delta.tally.last_at
            return True

    def write(self) -> None:
        """Keep and count what was offered. If that fails it still waits, and is written by the next call."""
        with self._writing:
            while (group := self._next_group()) is not None:
                # A write whose answer was lost may have been made: the same part with the same content changes nothing.
                self._store.append_monitor_counts(self._fence, group.part, _pack_group(group))
                with self.lock:
                    self._in_doubt = None
                    self._stored |= {series.endpoint for series in group.tallies}
                    self._count(group.tallies, group.keys)

    def close_tick(self, until: float) -> Tick:
        """End the open tick and begin the next; both share `until` as boundary. What was offered is written first."""
        with self._writing:
            self.write()
            with self.lock:
                before = [(follower, follower.snapshot()) for follower in self._followers]
                closed = self.totals()
                try:
                    tick, ending = self._end_tick(until)
                except BaseException:
                    _restore_all(before)
                    raise
            try:
                self._store.close_monitor_tick(self._fence, ending)
            except BaseException:
                with self.lock:
                    _restore_all(before)
                raise
            with self.lock:
                self._open_number, self._open_since, self._open = tick.number + 1, until, {}
                self._closed = closed
                self._stored = set(tick.endpoints)
                self._ticks.append(ending.tick)
            return tick

    def totals(self) -> dict[Series, Tally]:
        return add_tallies(dict(self._closed), self._open)

    def open_tick(self) -> dict[Series, Tally]:
        """What came since the last tick."""
        return dict(self._open)

    def window(self, since: float | None, until: float | None, endpoint: str | None = None) -> dict[Series, Tally]:
        """Sums of the ticks that lie wholly within; the open tick belongs to it only without `until`.

        Without bounds these are the totals, which remember more than the ticks do.
        """
        sums: dict[Series, Tally] = {}
        if since is None and until is None:
            sums = self.totals()
        else:
            for tick in self._ticks:
                if (since is None or tick.since >= since) and (until is None or tick.until <= until):
                    for name, counts in tick.counts.items():
                        if endpoint in (None, name):
                            add_tallies(sums, tallies_from_json(unpack(counts)))
            if until is None and (since is None or self._open_since >= since):
                add_tallies(sums, self._open)
        return {series: tally for series, tally in sums.items() if endpoint in (None, series.endpoint)}

    def _next_group(self) -> _Group | None:
        """What is to be written now: first what may have been written already."""
        with self.lock:
            if self._in_doubt is None and self._waiting.keys:
                self._in_doubt, self._waiting = self._waiting, _Group()
                self._through += 1
                self._in_doubt.part = self._through
            return self._in_doubt

    def _end_tick(self, until: float) -> tuple[Tick, TickEnd]:
        endpoints = frozenset(series.endpoint for series in self._closed.keys() | self._open.keys())
        tick = Tick(
            number=self._open_number, since=self._open_since, until=until, tallies=dict(self._open), endpoints=endpoints
        )
        window_rows = [row for follower in self._followers for row in follower.advance(tick)]
        totals = self.totals()
        for endpoint in endpoints:
            self._seen[endpoint].forget_silent(until)
        counts = _pack_by_endpoint(tick.tallies)
        return tick, TickEnd(
            tick=TickRow(number=tick.number, since=tick.since, until=until, counts=counts),
            through=self._through,
            shard=self._shard_json() | {"open_number": tick.number + 1, "open_since": until},
            states={endpoint: self._pack_state(endpoint, totals) for endpoint in sorted(endpoints)},
            windows=window_rows,
            oldest_tick=tick.number + 1 - (self._ticks.maxlen or 0),
            gone=sorted(self._stored - endpoints),
        )

    def _count(self, tallies: Mapping[Series, Tally], keys: Mapping[tuple[str, str, int], float]) -> None:
        add_tallies(self._open, tallies)
        for (endpoint, replica, sequence), at in keys.items():
            self._seen.setdefault(endpoint, SeenDeltas()).add(replica, sequence, at)
        self.num_deltas += len(keys)
        while len(self._closed.keys() | self._open.keys()) > MAX_SERIES:
            totals = self.totals()
            silent = min(totals, key=lambda series: totals[series].last_at)
            self._closed.pop(silent, None)
            self._open.pop(silent, None)
            self.num_forgotten += 1
            if not any(series.endpoint == silent.endpoint for series in totals if series != silent):
                del self._seen[silent.endpoint]

    def _restore(self, shard: int, num_shards: int, owns: Callable[[str], bool]) -> None:
        kept = self._store.take_over_monitor(
            shard,
            num_shards,
            owns,
            num_ticks=self._ticks.maxlen or 0,
            beginning=self._shard_json() | {"open_number": 0, "open_since": self._open_since},
        )
        self._fence = kept.fence
        self.since = kept.shard["since"]
        self.num_deltas, self.num_duplicates = kept.shard["num_deltas"], kept.shard["num_duplicates"]
        self.num_refused, self.num_forgotten = kept.shard["num_refused"], kept.shard["num_forgotten"]
        self._open_number, self._open_since = kept.shard["open_number"], kept.shard["open_since"]
        self._ticks.extend(kept.ticks)
        if kept.ticks:  # of endpoints that come from another shard, too
            self._open_number = max(self._open_number, kept.ticks[-1].number + 1)
            self._open_since = kept.ticks[-1].until if kept.is_new else self._open_since
        for endpoint, (through, content) in kept.states.items():
            self._through = max(self._through, through)
            self._stored.add(endpoint)
            self._load_state(endpoint, content)
        for part, endpoint, content in kept.journal:
            self._through = max(self._through, part)
            self._stored.add(endpoint)
            value = unpack(content)
            keys = {(endpoint, replica, sequence): at for replica, sequence, at in value["keys"]}
            self._count(tallies_from_json(value["tallies"]), keys)

    def _load_state(self, endpoint: str, content: bytes) -> None:
        value = unpack(content)
        if value.get("format") != FORMAT:
            raise ContractError(
                f"the monitor's state of endpoint {endpoint!r} has format {value.get('format')!r}, expected {FORMAT}: "
                "start the release that wrote it, or delete its rows of the tables monitor_* to count anew"
            )
        self._closed |= tallies_from_json(value["totals"])
        self._seen[endpoint] = SeenDeltas.from_json(value["seen"])
        for follower in self._followers:
            if follower.name in value["followers"]:
                try:
                    follower.load(endpoint, value["followers"][follower.name])
                except ContractError as error:
                    # Counts are exact and stay; what was concluded from them starts anew.
                    reason = {"endpoint": endpoint, "reason": str(error)}
                    logger.error("the monitor's %s starts anew", follower.name, extra=reason)

    def _pack_state(self, endpoint: str, totals: Mapping[Series, Tally]) -> bytes:
        states = {follower.name: follower.to_json(endpoint) for follower in self._followers}
        return pack(
            {
                "format": FORMAT,
                "totals": tallies_json({series: one for series, one in totals.items() if series.endpoint == endpoint}),
                "seen": self._seen[endpoint].to_json(),
                "followers": {name: state for name, state in states.items() if state is not None},
            }
        )

    def _shard_json(self) -> dict[str, Any]:
        return {
            "since": self.since,
            "num_deltas": self.num_deltas,
            "num_duplicates": self.num_duplicates,
            "num_refused": self.num_refused,
            "num_forgotten": self.num_forgotten,
        }


def _restore_all(before: Sequence[tuple[Follower, Any]]) -> None:
    for follower, snapshot in before:
        follower.restore(snapshot)


def _pack_by_endpoint(tallies: Mapping[Series, Tally]) -> dict[str, bytes]:
    apart: dict[str, dict[Series, Tally]] = {}
    for series, tally in tallies.items():
        apart.setdefault(series.endpoint, {})[series] = tally
    return {endpoint: pack(tallies_json(own)) for endpoint, own in apart.items()}


def _pack_group(group: _Group) -> dict[str, bytes]:
    found: dict[str, dict[str, Any]] = {}
    for (endpoint, replica, sequence), at in group.keys.items():
        found.setdefault(endpoint, {"keys": [], "tallies": []})["keys"].append([replica, sequence, at])
    for series, tally in group.tallies.items():
        found[series.endpoint]["tallies"] += tallies_json({series: tally})
    return {endpoint: pack(value) for endpoint, value in found.items()}
