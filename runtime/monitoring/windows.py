"""Longer memory than ticks have: sums over five minutes for a day, over hours for eight weeks. In the store, not here.

A stretch ends when the first tick after it arrives, and is written in the same transaction as that tick. It knows
neither references nor drift.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from runtime.core.errors import ContractError
from runtime.monitoring.deltas import Series, Tally, add_tallies
from runtime.monitoring.ledger import Tick
from runtime.monitoring.packing import pack, tallies_from_json, tallies_json, unpack
from runtime.store.monitor_counts import MonitorStore, WindowRow

logger = logging.getLogger(__name__)

HOUR_S = 3600
WEEK_S = 7 * 24 * HOUR_S
EPOCH_WEEKDAY = 3
"""1970 began on a Thursday; hours of the week count from Monday."""
READ_TOGETHER = 64
"""Stretches that one query reads: bounds the memory of a sum over a week."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    name: str
    width_s: int
    num_kept: int


MINUTES = Level(name="minutes", width_s=300, num_kept=24 * 12)
HOURS = Level(name="hours", width_s=HOUR_S, num_kept=8 * 7 * 24)
LEVELS = {level.name: level for level in (MINUTES, HOURS)}
PERIODS: dict[str, tuple[Level, int]] = {"day": (MINUTES, 86_400), "week": (HOURS, WEEK_S)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """An endpoint's sums of the ticks that began between `start` and the next multiple of the level's width."""

    start: int
    tallies: dict[Series, Tally]
    covered_s: float
    """Seconds of it that the monitor saw."""
    is_alarmed: bool
    """Whether the endpoint's alarm stood at some time in it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "tallies": tallies_json(self.tallies),
            "covered_s": self.covered_s,
            "is_alarmed": self.is_alarmed,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Stretch":
        """ContractError if it is not what `to_json` gave."""
        try:
            return cls(
                start=value["start"],
                tallies=tallies_from_json(value["tallies"]),
                covered_s=value["covered_s"],
                is_alarmed=value["is_alarmed"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ContractError(f"a window of the monitor is broken: {error!r}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """What an endpoint has of each level. Never changed, so that a snapshot may share it."""

    opened: dict[str, Stretch]
    starts: dict[str, tuple[int, ...]]
    """Of those closed, oldest first."""


_NOTHING = _Kept(opened={}, starts={})


class Windows:
    """Follows the ledger. Memory: of each endpoint the open stretches, and one cached sum a period."""

    name: ClassVar[str] = "windows"

    def __init__(self, store: MonitorStore, *, longest_tick_s: float) -> None:
        """A tick longer than `longest_tick_s` is one that the monitor was away in: its time does not count as seen."""
        self._store = store
        self._longest_tick_s = longest_tick_s
        self._kept: dict[str, _Kept] = {}
        self._alarmed: frozenset[str] = frozenset()
        self._sums: dict[tuple[str, str], tuple[tuple[int, ...], dict[Series, Tally]]] = {}

    def mark(self, alarmed: Iterable[str]) -> None:
        """Endpoints whose alarm stands at the tick that is about to be taken."""
        self._alarmed = frozenset(alarmed)

    def advance(self, tick: Tick) -> list[WindowRow]:
        seconds = tick.until - tick.since
        seen_s = seconds if seconds <= self._longest_tick_s else 0.0
        rows: list[WindowRow] = []
        kept = {}
        for endpoint in sorted(tick.endpoints):
            before = self._kept.get(endpoint, _NOTHING)
            own = {series: tally for series, tally in tick.tallies.items() if series.endpoint == endpoint}
            opened, starts = dict(before.opened), dict(before.starts)
            for level in LEVELS.values():
                start = int(tick.since // level.width_s) * level.width_s
                stretch = opened.get(level.name)
                if stretch is not None and stretch.start != start:
                    starts[level.name] = (*starts.get(level.name, ()), stretch.start)[-level.num_kept :]
                    rows.append(_row(endpoint, level, stretch, oldest_start=starts[level.name][0]))
                    stretch = None
                if stretch is None:
                    stretch = Stretch(start=start, tallies={}, covered_s=0.0, is_alarmed=False)
                opened[level.name] = Stretch(
                    start=start,
                    tallies=add_tallies(dict(stretch.tallies), own),
                    covered_s=stretch.covered_s + seen_s,
                    is_alarmed=stretch.is_alarmed or endpoint in self._alarmed,
                )
            kept[endpoint] = _Kept(opened=opened, starts=starts)
        self._kept = kept
        self._sums = {key: found for key, found in self._sums.items() if key[0] in kept}
        return rows

    def snapshot(self) -> dict[str, _Kept]:
        return self._kept

    def restore(self, snapshot: dict[str, _Kept]) -> None:
        self._kept = snapshot

    def to_json(self, endpoint: str) -> Any:
        kept = self._kept.get(endpoint)
        return None if kept is None else {name: stretch.to_json() for name, stretch in kept.opened.items()}

    def load(self, endpoint: str, value: Any) -> None:
        starts = {level: tuple(found) for level, found in self._store.monitor_window_starts(endpoint).items()}
        self._kept[endpoint] = _Kept(opened={}, starts=starts)
        if not isinstance(value, dict):
            raise ContractError(f"the open windows are broken: {value!r}")
        opened = {name: Stretch.from_json(stretch) for name, stretch in value.items() if name in LEVELS}
        self._kept[endpoint] = _Kept(opened=opened, starts=starts)

    def sum(self, endpoint: str, period: str, now: float) -> dict[Series, Tally]:
        """Everything counted in the last day or week, to the width of a stretch."""
        level, seconds = PERIODS[period]
        kept = self._kept.get(endpoint, _NOTHING)
        starts = tuple(start for start in kept.starts.get(level.name, ()) if start > now - seconds)
        cached = self._sums.get((endpoint, period))
        if cached is None or cached[0] != starts:
            sums: dict[Series, Tally] = {}
            for stretch in self._read(endpoint, level, starts):
                add_tallies(sums, stretch.tallies)
            self._sums[endpoint, period] = cached = (starts, sums)
        still_open = kept.opened.get(level.name)
        return add_tallies(dict(cached[1]), {} if still_open is None else still_open.tallies)

    def recent(self, endpoint: str, level: Level, number: int) -> list[Stretch]:
        """The last `number` stretches, the open one included, oldest first."""
        kept = self._kept.get(endpoint, _NOTHING)
        opened = kept.opened.get(level.name)
        found = list(self._read(endpoint, level, kept.starts.get(level.name, ())[-number:]))
        return [*found, *([] if opened is None else [opened])][-number:]

    def same_hours(self, endpoint: str, at: float, *, of: str = "week") -> Iterator[Stretch]:
        """Closed hours before `at` that are the same hour of the week or, with `of="day"`, of the day."""
        modulus = 24 if of == "day" else 168
        starts = [
            start
            for start in self._kept.get(endpoint, _NOTHING).starts.get(HOURS.name, ())
            if hour_of_week(start) % modulus == hour_of_week(at) % modulus and start + HOUR_S <= at
        ]
        return self._read(endpoint, HOURS, starts)

    def _read(self, endpoint: str, level: Level, starts: Sequence[int]) -> Iterator[Stretch]:
        """Oldest first. One that is gone or broken is left out, with a word in the log: a window may have a hole."""
        for first in range(0, len(starts), READ_TOGETHER):
            wanted = starts[first : first + READ_TOGETHER]
            found = self._store.monitor_windows(endpoint, level.name, wanted)
            for start in wanted:
                try:
                    yield Stretch.from_json(unpack(found[start]))
                except (KeyError, ContractError) as error:
                    where = {"endpoint": endpoint, "level": level.name, "start": start, "reason": repr(error)}
                    logger.error("a window of the monitor cannot be read", extra=where)


def _row(endpoint: str, level: Level, stretch: Stretch, *, oldest_start: int) -> WindowRow:
    counts = pack(stretch.to_json())
    return WindowRow(endpoint=endpoint, level=level.name, start=stretch.start, counts=counts, oldest_start=oldest_start)


def week_number(at: float) -> int:
    """In UTC, from Monday midnight."""
    return int((at + EPOCH_WEEKDAY * 24 * HOUR_S) // WEEK_S)


def hour_of_week(at: float) -> int:
    """0..167 in UTC, from Monday midnight."""
    return int(at // HOUR_S + EPOCH_WEEKDAY * 24) % 168
