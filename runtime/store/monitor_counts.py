"""What the monitor remembers, as bytes that it made: the counts of the open tick, closed ticks, windows, conclusions.

Knows no counts. Observed, so in no audit chain and in no backup: a restored platform counts anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    String,
    Table,
    delete,
    select,
    update,
)

from runtime.core.errors import ConflictError
from runtime.store.database import Database, retried, upsert
from runtime.store.tables import metadata

shards = Table(
    "monitor_shards",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("state", JSON, nullable=False),
)
endpoints = Table(
    "monitor_endpoints",
    metadata,
    Column("endpoint", String, primary_key=True),
    Column("through", Integer, nullable=False),
    Column("state", LargeBinary, nullable=False),
)
journal = Table(
    "monitor_journal",
    metadata,
    Column("endpoint", String, primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("counts", LargeBinary, nullable=False),
)
ticks = Table(
    "monitor_ticks",
    metadata,
    Column("endpoint", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("since", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("counts", LargeBinary, nullable=False),
)
windows = Table(
    "monitor_windows",
    metadata,
    Column("endpoint", String, primary_key=True),
    Column("level", String, primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("counts", LargeBinary, nullable=False),
)
BY_ENDPOINT = (endpoints, journal, ticks, windows)
MONITOR_TABLES = frozenset(table.name for table in (shards, *BY_ENDPOINT))


class SupersededError(ConflictError):
    """Another life of the shard has begun: this one must end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """One life of one shard; void once another life of it has begun."""

    shard: int
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TickRow:
    number: int
    since: float
    until: float
    counts: Mapping[str, bytes]
    """Endpoint to what it counted; those without traffic are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowRow:
    endpoint: str
    level: str
    start: int
    counts: bytes
    oldest_start: int
    """Earlier ones of this endpoint and level are dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TickEnd:
    """All that ends a tick."""

    tick: TickRow
    through: int
    """Last part of the journal that the states hold."""
    shard: Mapping[str, Any]
    states: Mapping[str, bytes]
    """Of every endpoint that is known."""
    windows: Sequence[WindowRow]
    """Those that ended with the tick."""
    oldest_tick: int
    """Earlier ones are dropped."""
    gone: Sequence[str]
    """Endpoints of which nothing is kept any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """All that a shard begins with."""

    fence: Fence
    shard: dict[str, Any]
    """As the last tick left it."""
    is_new: bool
    """Whether the shard had no life before; its endpoints may have lived in another."""
    states: dict[str, tuple[int, bytes]]
    """Endpoint to the last journal part that its state holds, and the state."""
    ticks: list[TickRow]
    """Oldest first."""
    journal: list[tuple[int, str, bytes]]
    """Part, endpoint and counts of what no state holds yet, in order."""


class MonitorStore(Database):
    """Each shard is written by one process, the one that took it over last; another's write is a SupersededError."""

    @retried
    def take_over_monitor(
        self, shard: int, num_shards: int, owns: Callable[[str], bool], *, num_ticks: int, beginning: Mapping[str, Any]
    ) -> Remembered:
        """Begin a life of `shard`, and read what is kept of the endpoints it owns, with the last `num_ticks` ticks.

        `beginning` is the state of a shard that had no life before. Lives of shards that are no more end too, so that
        an endpoint that moved has one writer.
        """
        with self._write() as connection:
            connection.execute(update(shards).where(shards.c.shard >= num_shards).values(epoch=shards.c.epoch + 1))
            found = connection.execute(select(shards).where(shards.c.shard == shard)).mappings().first()
            epoch = 1 if found is None else found["epoch"] + 1
            state = dict(beginning) if found is None else found["state"]
            upsert(connection, shards, {"shard": shard}, {"epoch": epoch, "state": state})
            rows = [row for row in connection.execute(select(endpoints)) if owns(row.endpoint)]
            states = {row.endpoint: (row.through, row.state) for row in rows}
            return Remembered(
                fence=Fence(shard=shard, epoch=epoch),
                shard=state,
                is_new=found is None,
                states=states,
                ticks=_read_ticks(connection, list(states), num_ticks),
                journal=_read_journal(connection, owns, {name: through for name, (through, _) in states.items()}),
            )

    @retried
    def append_monitor_counts(self, fence: Fence, part: int, counts: Mapping[str, bytes]) -> None:
        """Keep what came, by endpoint. The same part again is the same row: repeat it when in doubt."""
        with self._write() as connection:
            _check_fence(connection, fence)
            for endpoint, content in counts.items():
                upsert(connection, journal, {"endpoint": endpoint, "part": part}, {"counts": content})

    @retried
    def close_monitor_tick(self, fence: Fence, end: TickEnd) -> None:
        """All of it or nothing. The same tick again replaces it."""
        tick, known = end.tick, list(end.states)
        with self._write() as connection:
            _check_fence(connection, fence)
            connection.execute(update(shards).where(shards.c.shard == fence.shard).values(state=dict(end.shard)))
            for endpoint, content in tick.counts.items():
                values = {"since": tick.since, "until": tick.until, "counts": content}
                upsert(connection, ticks, {"endpoint": endpoint, "number": tick.number}, values)
            for endpoint, state in end.states.items():
                upsert(connection, endpoints, {"endpoint": endpoint}, {"through": end.through, "state": state})
            connection.execute(delete(journal).where(journal.c.endpoint.in_(known), journal.c.part <= end.through))
            connection.execute(delete(ticks).where(ticks.c.endpoint.in_(known), ticks.c.number < end.oldest_tick))
            for row in end.windows:
                key = {"endpoint": row.endpoint, "level": row.level, "start": row.start}
                upsert(connection, windows, key, {"counts": row.counts})
                same = (windows.c.endpoint == row.endpoint, windows.c.level == row.level)
                connection.execute(delete(windows).where(*same, windows.c.start < row.oldest_start))
            for table in BY_ENDPOINT if end.gone else ():
                connection.execute(delete(table).where(table.c.endpoint.in_(list(end.gone))))

    def monitor_window_starts(self, endpoint: str) -> dict[str, list[int]]:
        """Level to the starts of the windows kept, oldest first."""
        query = select(windows.c.level, windows.c.start).where(windows.c.endpoint == endpoint)
        found: dict[str, list[int]] = {}
        with self._read() as connection:
            for level, start in connection.execute(query.order_by(windows.c.level, windows.c.start)):
                found.setdefault(level, []).append(start)
        return found

    def monitor_windows(self, endpoint: str, level: str, starts: Sequence[int]) -> dict[int, bytes]:
        """Those of the starts that are kept, with their counts."""
        same = (windows.c.endpoint == endpoint, windows.c.level == level)
        query = select(windows.c.start, windows.c.counts).where(*same, windows.c.start.in_(list(starts)))
        with self._read() as connection:
            return {row.start: row.counts for row in connection.execute(query)}


def _check_fence(connection: Connection, fence: Fence) -> None:
    epoch = connection.execute(select(shards.c.epoch).where(shards.c.shard == fence.shard)).scalar()
    if epoch != fence.epoch:
        raise SupersededError(
            f"another monitor has taken over shard {fence.shard}: its life is {epoch}, this one was {fence.epoch}; "
            "nothing was written"
        )


def _read_ticks(connection: Connection, names: Sequence[str], num_ticks: int) -> list[TickRow]:
    own = ticks.c.endpoint.in_(names)
    numbers = select(ticks.c.number).distinct().where(own).order_by(ticks.c.number.desc()).limit(num_ticks)
    found: dict[int, TickRow] = {}
    for row in connection.execute(select(ticks).where(own, ticks.c.number.in_(numbers)).order_by(ticks.c.number)):
        counts = {**(found[row.number].counts if row.number in found else {}), row.endpoint: row.counts}
        found[row.number] = TickRow(number=row.number, since=row.since, until=row.until, counts=counts)
    return list(found.values())


def _read_journal(
    connection: Connection, owns: Callable[[str], bool], through: Mapping[str, int]
) -> list[tuple[int, str, bytes]]:
    return [
        (row.part, row.endpoint, row.counts)
        for row in connection.execute(select(journal).order_by(journal.c.part))
        if owns(row.endpoint) and row.part > through.get(row.endpoint, 0)
    ]
