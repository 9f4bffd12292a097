"""Alerts as they stand and what happened to them. Knows no rules: a state is JSON that the monitoring room made."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import JSON, Column, Float, Integer, String, Table, delete, insert, select

from runtime.store.database import Database, retried, upsert
from runtime.store.outbox import enqueue
from runtime.store.tables import metadata

ALERT_TOPIC = "alert"

alerts = Table(
    "alerts",
    metadata,
    Column("key", String, primary_key=True),
    Column("endpoint", String, nullable=False, index=True),
    Column("phase", String, nullable=False),
    Column("state", JSON, nullable=False),
    Column("updated_at", Float, nullable=False),
)

alert_events = Table(
    "alert_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("alert_key", String, nullable=False, index=True),
    Column("payload", JSON, nullable=False),
)


class AlertStore(Database):
    """Times are seconds since 1970. Read, decide and save within `transaction()`: nobody changes it in between."""

    def alerts(self, endpoint: str | None = None) -> dict[str, dict[str, Any]]:
        """The states by key, of one endpoint or of all."""
        query = select(alerts.c.key, alerts.c.state).order_by(alerts.c.key)
        if endpoint is not None:
            query = query.where(alerts.c.endpoint == endpoint)
        with self._read() as connection:
            return {row.key: row.state for row in connection.execute(query)}

    @retried
    def save_alerts(
        self,
        states: Mapping[str, Mapping[str, Any]],
        *,
        gone: Sequence[str] = (),
        events: Sequence[Mapping[str, Any]] = (),
        at: float,
    ) -> None:
        """Put these states in place, forget those that are gone, and queue each event for those who want alerts.

        A state has an `endpoint` and a `phase`, an event a `kind` and a `key`.
        """
        with self._write() as connection:
            for key, state in states.items():
                values = dict(endpoint=state["endpoint"], phase=state["phase"], state=dict(state), updated_at=at)
                upsert(connection, alerts, {"key": key}, values)
            if gone:
                connection.execute(delete(alerts).where(alerts.c.key.in_(list(gone))))
            for event in events:
                row = dict(at=at, kind=event["kind"], alert_key=event["key"], payload=dict(event))
                connection.execute(insert(alert_events).values(**row))
                enqueue(connection, ALERT_TOPIC, dict(event), at=at)

    def alert_events(self, *, since: float = 0.0, limit: int = 200) -> list[dict[str, Any]]:
        """What happened to alerts, newest first: each event with its time as `at`."""
        query = select(alert_events).where(alert_events.c.at >= since).order_by(alert_events.c.id.desc()).limit(limit)
        with self._read() as connection:
            return [dict(row.payload) | {"at": row.at} for row in connection.execute(query)]
