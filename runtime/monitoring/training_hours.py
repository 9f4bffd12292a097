"""A model version's training rows by the hour of the week in their time column: a season before there is history.

Right only where requests come at the time that the column would say, so it has to be asked for. Rows are read once, in
batches and in a thread of its own; kept are counts, packed. Outputs are not in them: the table knows no model.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runtime.data.counts import Counts, Packed, unpack_counts
from runtime.data.profile import Profile

logger = logging.getLogger(__name__)

HOURS_A_WEEK = 168


@dataclass(frozen=True, kw_only=True, slots=True)
class HourCounts:
    """Counts of each hour of the week, Monday midnight first; None where there are no rows."""

    packed: tuple[Packed | None, ...]
    weeks: tuple[frozenset[int], ...]
    """Numbers of the weeks that each hour's rows are of."""

    def matching(self, hour_of_week: int, *, of: str) -> tuple[Counts | None, int]:
        """Rows of that hour of the week or, with `of="day"`, of the day; and of how many weeks they are."""
        wanted = [hour_of_week] if of == "week" else list(range(hour_of_week % 24, HOURS_A_WEEK, 24))
        counts: Counts | None = None
        for hour in wanted:
            packed = self.packed[hour]
            if packed is not None:
                own = unpack_counts(packed)
                counts = own if counts is None else counts.merge(own)
        return counts, len(frozenset[int]().union(*(self.weeks[hour] for hour in wanted)))


HoursReader = Callable[[str, Profile], HourCounts]


def _in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="teal-training-hours", daemon=True).start()


class TrainingHours:
    """Reads a version's hours when they are first asked for, and keeps them until the version is gone."""

    def __init__(self, read: HoursReader, run: Callable[[Callable[[], None]], None] = _in_a_thread) -> None:
        self._read = read
        self._run = run
        self._lock = threading.Lock()
        self._found: dict[str, HourCounts | None] = {}
        self._reading: set[str] = set()

    def is_pending(self, model_version: str) -> bool:
        with self._lock:
            return model_version in self._reading

    def get(self, model_version: str, profile: Profile) -> HourCounts | None:
        """None while they are being read, and where they cannot be had, which the log says once."""
        with self._lock:
            if model_version in self._found or model_version in self._reading:
                return self._found.get(model_version)
            self._reading.add(model_version)
        self._run(lambda: self._load(model_version, profile))
        with self._lock:
            return self._found.get(model_version)

    def forget(self, keep: Iterable[str]) -> None:
        kept = set(keep)
        with self._lock:
            self._found = {name: found for name, found in self._found.items() if name in kept}

    def _load(self, model_version: str, profile: Profile) -> None:
        found = None
        try:
            found = self._read(model_version, profile)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a table, the profile is there to compare with
            reason = {"model_version": model_version, "reason": repr(error)}
            logger.warning("training rows by hour cannot be had", extra=reason)
        with self._lock:
            self._found[model_version] = found
            self._reading.discard(model_version)
