"""The monitor's memory: totals and ticks of every series, on disk as soon as a delta is taken in.

Directory: `totals.json` holds everything up to the last closed tick, `journal-N.jsonl` the deltas of the open tick N,
`tick-N.json` each closed tick. A tick closes by writing its file, then `totals.json` in one step: whoever reads after a
kill at any point finds each delta exactly once. What was acknowledged survives the process, though not a power cut.
"""

import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import orjson

from runtime.core.errors import ContractError
from runtime.core.files import write_atomic
from runtime.monitoring.deltas import Delta, SeenDeltas, Series, Tally

logger = logging.getLogger(__name__)

FORMAT = 2
MAX_SERIES = 256
"""Totals kept; beyond it the series that was silent longest is forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A closed stretch of time, half open, in seconds since 1970."""

    number: int
    since: float
    until: float
    tallies: dict[Series, Tally]


class Follower(Protocol):
    """Takes every tick exactly once: its state is written in the same step as the tick's end."""

    name: ClassVar[str]

    def advance(self, tick: Tick) -> None: ...

    def snapshot(self) -> Any:
        """What `restore` goes back to, in this process, if the tick cannot be written."""

    def restore(self, snapshot: Any) -> None: ...

    def to_json(self) -> Any: ...

    def load(self, value: Any) -> None:
        """Go on from what `to_json` gave. ContractError if it is not understood; the follower is then as new."""


class Ledger:
    """For one thread at a time. One process owns the directory."""

    def __init__(self, directory: Path, *, num_ticks_kept: int, now: float, followers: Sequence[Follower] = ()) -> None:
        self.directory = directory
        self.since = now
        self.num_deltas = 0
        self.num_duplicates = 0
        self.num_refused = 0
        self.num_forgotten = 0
        self._followers = followers
        self._seen = SeenDeltas()
        self._closed: dict[Series, Tally] = {}
        self._ticks: deque[tuple[float, float, bytes]] = deque(maxlen=num_ticks_kept)  # since, until, as written
        self._open: dict[Series, Tally] = {}
        self._open_number = 0
        self._open_since = now
        directory.mkdir(parents=True, exist_ok=True)
        self._restore()
        self._journal = self._journal_path(self._open_number).open("ab")

    @property
    def last_tick_at(self) -> float:
        return self._open_since

    @property
    def num_replicas(self) -> int:
        """Replicas heard of in the last day."""
        return len(self._seen)

    def add(self, delta: Delta) -> bool:
        """Take a delta in and write it down. False if it was there before. ContractError if it does not fit."""
        if (delta.replica, delta.sequence) in self._seen:
            self.num_duplicates += 1
            return False
        closed = self._closed.get(delta.series)
        if closed is not None and closed.counts.shape != delta.tally.counts.shape:
            closed.merge(delta.tally)  # raises, and says why
        here = self._open.get(delta.series)
        merged = delta.tally if here is None else here.merge(delta.tally)
        self._journal.write(orjson.dumps(_delta_json(delta)) + b"\n")
        self._journal.flush()
        self._count(delta, merged)
        return True

    def close_tick(self, now: float) -> Tick:
        """End the open tick and begin the next; both share `now` as boundary."""
        tick = Tick(number=self._open_number, since=self._open_since, until=now, tallies=self._open)
        written = orjson.dumps(_tick_json(tick))
        before = [(follower, follower.snapshot()) for follower in self._followers]
        try:
            for follower in self._followers:
                follower.advance(tick)
            write_atomic(self._tick_path(tick.number), written)
            closed = self.totals()
            self._seen.forget_silent(now)
            state = self._state_json() | {
                "open_number": tick.number + 1,
                "open_since": now,
                "totals": tallies_json(closed),
                "followers": {follower.name: follower.to_json() for follower in self._followers},
            }
            write_atomic(self.directory / "totals.json", orjson.dumps(state))
        except BaseException:
            for follower, snapshot in before:
                follower.restore(snapshot)
            raise
        self._open_number, self._open_since, self._open = tick.number + 1, now, {}
        self._closed = closed
        self._ticks.append((tick.since, tick.until, written))
        self._journal.close()
        self._journal = self._journal_path(self._open_number).open("ab")
        self._journal_path(tick.number).unlink(missing_ok=True)
        self._tick_path(tick.number - (self._ticks.maxlen or 0)).unlink(missing_ok=True)
        return tick

    def totals(self) -> dict[Series, Tally]:
        return add_tallies(dict(self._closed), self._open)

    def open_tick(self) -> dict[Series, Tally]:
        """What came since the last tick."""
        return dict(self._open)

    def window(self, since: float | None, until: float | None) -> dict[Series, Tally]:
        """Sums of the ticks that lie wholly within; the open tick belongs to it only without `until`.

        Without bounds these are the totals, which remember more than the ticks do.
        """
        if since is None and until is None:
            return self.totals()
        sums: dict[Series, Tally] = {}
        for tick_since, tick_until, written in self._ticks:
            if (since is None or tick_since >= since) and (until is None or tick_until <= until):
                add_tallies(sums, tallies_from_json(orjson.loads(written)["tallies"]))
        if until is None and (since is None or self._open_since >= since):
            add_tallies(sums, self._open)
        return sums

    def close(self) -> None:
        self._journal.close()

    def _count(self, delta: Delta, merged: Tally) -> None:
        self.num_deltas += 1
        self._seen.add(delta.replica, delta.sequence, delta.tally.last_at)
        self._open[delta.series] = merged
        if delta.series not in self._closed and len(self._closed.keys() | self._open.keys()) > MAX_SERIES:
            totals = self.totals()
            silent = min(totals, key=lambda series: totals[series].last_at)
            self._closed.pop(silent, None)
            self._open.pop(silent, None)
            self.num_forgotten += 1

    def _restore(self) -> None:
        path = self.directory / "totals.json"
        if not path.exists():
            # A restart must know when the first tick began.
            state = self._state_json() | {"open_number": 0, "open_since": self._open_since, "totals": []}
            write_atomic(path, orjson.dumps(state | {"followers": {}}))
        else:
            value = _read_json(path)
            if value.get("format") != FORMAT:
                raise ContractError(f"{path} has format {value.get('format')!r}, expected {FORMAT}; move it away")
            self.since = value["since"]
            self.num_deltas, self.num_duplicates = value["num_deltas"], value["num_duplicates"]
            self.num_refused, self.num_forgotten = value["num_refused"], value["num_forgotten"]
            self._seen = SeenDeltas.from_json(value["seen"])
            self._closed = tallies_from_json(value["totals"])
            self._open_number, self._open_since = value["open_number"], value["open_since"]
            self._load_followers(value["followers"])
        first = self._open_number - (self._ticks.maxlen or 0)
        for number in range(max(first, 0), self._open_number):
            if self._tick_path(number).exists():
                tick = _read_json(self._tick_path(number))
                self._ticks.append((tick["since"], tick["until"], orjson.dumps(tick)))
        self._replay(self._journal_path(self._open_number))
        for stale in self.directory.glob("journal-*.jsonl"):
            if stale != self._journal_path(self._open_number):
                stale.unlink()

    def _load_followers(self, states: dict[str, Any]) -> None:
        for follower in self._followers:
            if follower.name in states:
                try:
                    follower.load(states[follower.name])
                except ContractError as error:
                    # Counts are exact and stay; what was concluded from them starts anew.
                    logger.error("the monitor's %s starts anew", follower.name, extra={"reason": str(error)})

    def _replay(self, path: Path) -> None:
        """Take in the journal's deltas. A last line cut off by a kill was never acknowledged: it is cut away."""
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            delta = _delta_from_json(orjson.loads(line))
            here = self._open.get(delta.series)
            self._count(delta, delta.tally if here is None else here.merge(delta.tally))

    def _state_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "since": self.since,
            "num_deltas": self.num_deltas,
            "num_duplicates": self.num_duplicates,
            "num_refused": self.num_refused,
            "num_forgotten": self.num_forgotten,
            "seen": self._seen.to_json(),
        }

    def _journal_path(self, number: int) -> Path:
        return self.directory / f"journal-{number}.jsonl"

    def _tick_path(self, number: int) -> Path:
        return self.directory / f"tick-{number}.json"


def add_tallies(sums: dict[Series, Tally], more: dict[Series, Tally]) -> dict[Series, Tally]:
    """Merge `more` into `sums`, series by series; returns `sums`."""
    for series, tally in more.items():
        sums[series] = sums[series].merge(tally) if series in sums else tally
    return sums


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = orjson.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ContractError(f"the monitor's state {path} is not JSON: {error}; move it away to start anew") from error
    return value


def _series_json(series: Series) -> list[str]:
    return [series.endpoint, series.slot, series.model_version]


def _series_from_json(value: list[str]) -> Series:
    return Series(endpoint=value[0], slot=value[1], model_version=value[2])


def tallies_json(tallies: dict[Series, Tally]) -> list[Any]:
    return [[_series_json(series), tally.to_json()] for series, tally in tallies.items()]


def tallies_from_json(value: list[Any]) -> dict[Series, Tally]:
    return {_series_from_json(series): Tally.from_json(tally) for series, tally in value}


def _tick_json(tick: Tick) -> dict[str, Any]:
    return {
        "number": tick.number,
        "since": tick.since,
        "until": tick.until,
        "tallies": tallies_json(tick.tallies),
    }


def _delta_json(delta: Delta) -> dict[str, Any]:
    return {
        "series": _series_json(delta.series),
        "replica": delta.replica,
        "sequence": delta.sequence,
        "tally": delta.tally.to_json(),
    }


def _delta_from_json(value: dict[str, Any]) -> Delta:
    return Delta(
        series=_series_from_json(value["series"]),
        replica=value["replica"],
        sequence=value["sequence"],
        tally=Tally.from_json(value["tally"]),
    )
