"""The outbox: what others must hear of a change is stored in the change's own transaction, and delivered afterwards.

An event is copied for each consumer that asked for its topic, so that one which is away holds up no other.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from runtime.core.ids import new_id
from runtime.store import tables
from runtime.store.database import Database, retried
from runtime.store.records import Message


class OutboxStore(Database):
    """Times are seconds since 1970."""

    @retried
    def subscribe(self, consumer: str, topics: Collection[str]) -> None:
        """From now on the consumer gets these topics and no others; with none it gets nothing, and what waits goes."""
        table = tables.subscriptions
        with self._write() as connection:
            query = select(table.c.topic).where(table.c.consumer == consumer)
            found = set(connection.execute(query).scalars())
            if gone := found - set(topics):
                connection.execute(delete(table).where(table.c.consumer == consumer, table.c.topic.in_(gone)))
            for topic in sorted(set(topics) - found):
                connection.execute(insert(table).values(consumer=consumer, topic=topic))
            if not topics:
                connection.execute(delete(tables.outbox).where(tables.outbox.c.consumer == consumer))

    def consumers(self) -> list[str]:
        column = tables.subscriptions.c.consumer
        with self._read() as connection:
            return list(connection.execute(select(column).distinct().order_by(column)).scalars())

    @retried
    def enqueue(self, topic: str, payload: Mapping[str, Any], *, at: float) -> None:
        """Queue an event for those who asked for its topic. Within `transaction()` it stands or falls with the rest."""
        with self._write() as connection:
            enqueue(connection, topic, payload, at=at)

    def pending(self, consumer: str, *, now: float, limit: int = 100) -> list[Message]:
        """What is due for a consumer, in order. It may be given again until it is marked delivered."""
        table = tables.outbox
        query = select(table).where(table.c.consumer == consumer, table.c.next_at <= now).order_by(table.c.id)
        with self._read() as connection:
            return [Message(**row) for row in connection.execute(query.limit(limit)).mappings()]

    def backlog(self) -> dict[str, int]:
        """Consumer to the number of messages it has not taken yet."""
        column = tables.outbox.c.consumer
        with self._read() as connection:
            rows = connection.execute(select(column, func.count()).group_by(column).order_by(column))
            return {row[0]: row[1] for row in rows}

    @retried
    def delivered(self, message_id: int) -> None:
        """The consumer has it; a message is forgotten then. Repeating it is no error."""
        with self._write() as connection:
            connection.execute(delete(tables.outbox).where(tables.outbox.c.id == message_id))

    @retried
    def failed(self, message_id: int, error: str, next_at: float) -> None:
        """The consumer has not taken it: why, and when to try again."""
        table = tables.outbox
        values = {"error": error, "next_at": next_at, "num_attempts": table.c.num_attempts + 1}
        with self._write() as connection:
            connection.execute(update(table).where(table.c.id == message_id).values(values))


def enqueue(connection: Connection, topic: str, payload: Mapping[str, Any], *, at: float) -> None:
    """Within the open transaction, one message for each consumer of the topic; none if nobody asked."""
    table = tables.subscriptions
    consumers = connection.execute(select(table.c.consumer).where(table.c.topic == topic)).scalars().all()
    if not consumers:
        return
    event_id = new_id()
    shared = dict(event_id=event_id, topic=topic, payload=dict(payload), created_at=at, num_attempts=0, next_at=at)
    connection.execute(insert(tables.outbox), [{"consumer": consumer, **shared} for consumer in sorted(consumers)])
