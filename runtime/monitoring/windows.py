"""Longer memory than ticks have: sums over five minutes for a day, over hours for eight weeks. On disk, not in memory.

A stretch ends when the first tick after it arrives; its file is written before that tick is, so a kill between the two
writes the same file again. It knows neither references nor drift.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import orjson

from runtime.core.errors import ContractError
from runtime.core.files import write_atomic
from runtime.monitoring.deltas import Series, Tally
from runtime.monitoring.ledger import Tick, add_tallies, tallies_from_json, tallies_json

logger = logging.getLogger(__name__)

HOUR_S = 3600
WEEK_S = 7 * 24 * HOUR_S
EPOCH_WEEKDAY = 3
"""1970 began on a Thursday; hours of the week count from Monday."""


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
    """Sums of the ticks that began between `start` and the next multiple of the level's width."""

    start: int
    tallies: dict[Series, Tally]
    covered_s: float
    """Seconds of it that the monitor saw."""
    alarmed: frozenset[str]
    """Endpoints whose alarm stood at some time in it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "tallies": tallies_json(self.tallies),
            "covered_s": self.covered_s,
            "alarmed": sorted(self.alarmed),
        }

    @classmethod
    def from_json(cls, value: Any) -> "Stretch":
        return cls(
            start=value["start"],
            tallies=tallies_from_json(value["tallies"]),
            covered_s=value["covered_s"],
            alarmed=frozenset(value["alarmed"]),
        )


class Windows:
    """Follows the ledger. Memory: the open stretch of each level, and one cached sum a period."""

    name: ClassVar[str] = "windows"

    def __init__(self, directory: Path, *, longest_tick_s: float) -> None:
        """A tick longer than `longest_tick_s` is one that the monitor was away in: its time does not count as seen."""
        self._directory = directory
        self._longest_tick_s = longest_tick_s
        self._open: dict[str, Stretch] = {}
        self._alarmed: frozenset[str] = frozenset()
        self._starts = {name: sorted(self._scan(level)) for name, level in LEVELS.items()}
        self._sums: dict[str, tuple[tuple[int, int], dict[Series, Tally]]] = {}

    def mark(self, alarmed: Iterable[str]) -> None:
        """Endpoints whose alarm stands at the tick that is about to be taken."""
        self._alarmed = frozenset(alarmed)

    def advance(self, tick: Tick) -> None:
        opened = dict(self._open)
        seconds = tick.until - tick.since
        seen_s = seconds if seconds <= self._longest_tick_s else 0.0
        for level in LEVELS.values():
            start = int(tick.since // level.width_s) * level.width_s
            stretch = opened.get(level.name)
            if stretch is not None and stretch.start != start:
                self._write(level, stretch)
                stretch = None
            if stretch is None:
                stretch = Stretch(start=start, tallies={}, covered_s=0.0, alarmed=frozenset())
            opened[level.name] = Stretch(
                start=start,
                tallies=add_tallies(dict(stretch.tallies), tick.tallies),
                covered_s=stretch.covered_s + seen_s,
                alarmed=stretch.alarmed | self._alarmed,
            )
        self._open = opened

    def snapshot(self) -> dict[str, Stretch]:
        return self._open

    def restore(self, snapshot: dict[str, Stretch]) -> None:
        self._open = snapshot

    def to_json(self) -> Any:
        return {name: stretch.to_json() for name, stretch in self._open.items()}

    def load(self, value: Any) -> None:
        try:
            self._open = {name: Stretch.from_json(stretch) for name, stretch in value.items() if name in LEVELS}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ContractError(f"the open windows are broken: {error!r}") from error

    def sum(self, period: str, now: float) -> dict[Series, Tally]:
        """Everything counted in the last day or week, to the width of a stretch."""
        level, seconds = PERIODS[period]
        starts = [start for start in self._starts[level.name] if start > now - seconds]
        key = (starts[0] if starts else 0, starts[-1] if starts else 0)
        cached = self._sums.get(period)
        if cached is None or cached[0] != key:
            sums: dict[Series, Tally] = {}
            for stretch in self.stretches(level, starts):
                add_tallies(sums, stretch.tallies)
            self._sums[period] = cached = (key, sums)
        still_open = self._open.get(level.name)
        return add_tallies(dict(cached[1]), {} if still_open is None else still_open.tallies)

    def stretches(self, level: Level, starts: Iterable[int] | None = None) -> Iterator[Stretch]:
        """Closed stretches, oldest first, read one at a time; by default all."""
        for start in self._starts[level.name] if starts is None else starts:
            stretch = self._read(level, start)
            if stretch is not None:
                yield stretch

    def recent(self, level: Level, number: int) -> list[Stretch]:
        """The last `number` stretches, the open one included, oldest first."""
        opened = self._open.get(level.name)
        found = list(self.stretches(level, self._starts[level.name][-number:]))
        return [*found, *([] if opened is None else [opened])][-number:]

    def same_hours(self, at: float, *, of: str = "week") -> Iterator[Stretch]:
        """Closed hours before `at` that are the same hour of the week or, with `of="day"`, of the day."""
        for start in self._starts[HOURS.name]:
            is_same = hour_of_week(start) == hour_of_week(at)
            if of == "day":
                is_same = hour_of_week(start) % 24 == hour_of_week(at) % 24
            if is_same and start + HOUR_S <= at and (stretch := self._read(HOURS, start)) is not None:
                yield stretch

    def _write(self, level: Level, stretch: Stretch) -> None:
        starts = self._starts[level.name]
        write_atomic(self._path(level, stretch.start), orjson.dumps(stretch.to_json()))
        if stretch.start not in starts:
            starts.append(stretch.start)
            starts.sort()
        for old in starts[: max(len(starts) - level.num_kept, 0)]:
            self._path(level, old).unlink(missing_ok=True)
        del starts[: max(len(starts) - level.num_kept, 0)]

    def _read(self, level: Level, start: int) -> Stretch | None:
        """None, with a word in the log, for a file that is gone or broken: a window may have a hole."""
        path = self._path(level, start)
        try:
            return Stretch.from_json(orjson.loads(path.read_bytes()))
        except (OSError, KeyError, TypeError, ValueError) as error:
            logger.error("a window of the monitor cannot be read", extra={"path": str(path), "reason": repr(error)})
            return None

    def _scan(self, level: Level) -> Iterator[int]:
        for path in self._directory.glob(f"{level.name}-*.json"):
            if match := re.fullmatch(rf"{level.name}-(\d+)\.json", path.name):
                yield int(match[1])

    def _path(self, level: Level, start: int) -> Path:
        return self._directory / f"{level.name}-{start}.json"


def hour_of_week(at: float) -> int:
    """0..167 in UTC, from Monday midnight."""
    return int(at // HOUR_S + EPOCH_WEEKDAY * 24) % 168
