"""The monitor's memory: totals and ticks of every series, on disk as soon as a delta is taken in.

Directory: `totals.json` holds everything up to the last closed tick, `journal-N.jsonl` the deltas of the open tick N,
`tick-N.json` each closed tick. A tick closes by writing its file, then `totals.json` in one step: whoever reads after a
kill at any point finds each delta exactly once. What was acknowledged survives the process, though not a power cut.
"""

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from runtime.core.errors import ContractError
from runtime.core.files import write_atomic
from runtime.monitoring.deltas import Delta, SeenDeltas, Series, Tally

FORMAT = 1
MAX_SERIES = 256
"""Totals kept; beyond it the series that was silent longest is forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A closed stretch of time, half open, in seconds since 1970."""

    number: int
    since: float
    until: float
    tallies: dict[Series, Tally]


class Ledger:
    """For one thread at a time. One process owns the directory."""

    def __init__(self, directory: Path, *, num_ticks_kept: int, now: float) -> None:
        self.directory = directory
        self.since = now
        self.num_deltas = 0
        self.num_duplicates = 0
        self.num_refused = 0
        self.num_forgotten = 0
        self._seen = SeenDeltas()
        self._totals: dict[Series, Tally] = {}
        self._ticks: deque[Tick] = deque(maxlen=num_ticks_kept)
        self._open: dict[Series, Tally] = {}
        self._open_number = 0
        self._open_since = now
        directory.mkdir(parents=True, exist_ok=True)
        self._restore()
        self._journal = self._journal_path(self._open_number).open("ab")

    @property
    def last_tick_at(self) -> float:
        return self._open_since

    def add(self, delta: Delta) -> bool:
        """Take a delta in and write it down. False if it was there before. ContractError if it does not fit."""
        if (delta.replica, delta.sequence) in self._seen:
            self.num_duplicates += 1
            return False
        total = self._totals.get(delta.series)
        merged = delta.tally if total is None else total.merge(delta.tally)
        self._journal.write(orjson.dumps(_delta_json(delta)) + b"\n")
        self._journal.flush()
        self._count(delta, merged)
        return True

    def close_tick(self, now: float) -> Tick:
        """End the open tick and begin the next; both share `now` as boundary."""
        tick = Tick(number=self._open_number, since=self._open_since, until=now, tallies=self._open)
        write_atomic(self._tick_path(tick.number), orjson.dumps(_tick_json(tick)))
        oldest = tick.number + 1 - (self._ticks.maxlen or 0)
        self._open_number, self._open_since, self._open = tick.number + 1, now, {}
        write_atomic(self.directory / "totals.json", orjson.dumps(self._totals_json()))
        self._ticks.append(tick)
        self._journal.close()
        self._journal = self._journal_path(self._open_number).open("ab")
        self._journal_path(tick.number).unlink(missing_ok=True)
        self._tick_path(oldest - 1).unlink(missing_ok=True)
        return tick

    def totals(self) -> dict[Series, Tally]:
        return dict(self._totals)

    def window(self, since: float | None, until: float | None) -> dict[Series, Tally]:
        """Sums of the ticks that lie wholly within; the open tick belongs to it only without `until`.

        Without bounds these are the totals, which remember more than the ticks do.
        """
        if since is None and until is None:
            return self.totals()
        stretches = [
            tick.tallies
            for tick in self._ticks
            if (since is None or tick.since >= since) and (until is None or tick.until <= until)
        ]
        if until is None and (since is None or self._open_since >= since):
            stretches.append(self._open)
        sums: dict[Series, Tally] = {}
        for tallies in stretches:
            for series, tally in tallies.items():
                sums[series] = sums[series].merge(tally) if series in sums else tally
        return sums

    def close(self) -> None:
        self._journal.close()

    def _count(self, delta: Delta, merged_total: Tally) -> None:
        self.num_deltas += 1
        self._seen.add(delta.replica, delta.sequence)
        self._totals[delta.series] = merged_total
        here = self._open.get(delta.series)
        self._open[delta.series] = delta.tally if here is None else here.merge(delta.tally)
        if len(self._totals) > MAX_SERIES:
            silent = min(self._totals, key=lambda series: self._totals[series].last_at)
            del self._totals[silent]
            self._open.pop(silent, None)
            self.num_forgotten += 1

    def _restore(self) -> None:
        path = self.directory / "totals.json"
        if not path.exists():
            write_atomic(path, orjson.dumps(self._totals_json()))  # a restart must know when the first tick began
        else:
            value = _read_json(path)
            if value.get("format") != FORMAT:
                raise ContractError(f"{path} has format {value.get('format')!r}, expected {FORMAT}; move it away")
            self.since = value["since"]
            self.num_deltas, self.num_duplicates = value["num_deltas"], value["num_duplicates"]
            self.num_refused, self.num_forgotten = value["num_refused"], value["num_forgotten"]
            self._seen = SeenDeltas.from_json(value["seen"])
            self._totals = _tallies_from_json(value["totals"])
            self._open_number, self._open_since = value["open_number"], value["open_since"]
        first = self._open_number - (self._ticks.maxlen or 0)
        for number in range(max(first, 0), self._open_number):
            if self._tick_path(number).exists():
                self._ticks.append(_tick_from_json(_read_json(self._tick_path(number))))
        self._replay(self._journal_path(self._open_number))
        for stale in self.directory.glob("journal-*.jsonl"):
            if stale != self._journal_path(self._open_number):
                stale.unlink()

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
            total = self._totals.get(delta.series)
            self._count(delta, delta.tally if total is None else total.merge(delta.tally))

    def _totals_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "since": self.since,
            "num_deltas": self.num_deltas,
            "num_duplicates": self.num_duplicates,
            "num_refused": self.num_refused,
            "num_forgotten": self.num_forgotten,
            "open_number": self._open_number,
            "open_since": self._open_since,
            "seen": self._seen.to_json(),
            "totals": _tallies_json(self._totals),
        }

    def _journal_path(self, number: int) -> Path:
        return self.directory / f"journal-{number}.jsonl"

    def _tick_path(self, number: int) -> Path:
        return self.directory / f"tick-{number}.json"


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


def _tallies_json(tallies: dict[Series, Tally]) -> list[Any]:
    return [[_series_json(series), tally.to_json()] for series, tally in tallies.items()]


def _tallies_from_json(value: list[Any]) -> dict[Series, Tally]:
    return {_series_from_json(series): Tally.from_json(tally) for series, tally in value}


def _tick_json(tick: Tick) -> dict[str, Any]:
    return {
        "number": tick.number,
        "since": tick.since,
        "until": tick.until,
        "tallies": _tallies_json(tick.tallies),
    }


def _tick_from_json(value: dict[str, Any]) -> Tick:
    return Tick(
        number=value["number"],
        since=value["since"],
        until=value["until"],
        tallies=_tallies_from_json(value["tallies"]),
    )


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
