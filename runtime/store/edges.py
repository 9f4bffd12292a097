"""What edges say they apply, and what they are told of serving settings: observed. In no audit chain."""

from collections.abc import Iterable, Mapping

from sqlalchemy import delete, func, select

from runtime.store import tables
from runtime.store.database import Database, retried, upsert_rows
from runtime.store.records import EdgeLimits


class EdgeStore(Database):
    @retried
    def acknowledge(self, edge_id: str, generations: Mapping[str, int], at: float) -> None:
        """Record that an edge now applies these generations. `at` is seconds since 1970; also its sign of life."""
        rows = [
            dict(edge_id=edge_id, endpoint=endpoint, generation=generation, at=at)
            for endpoint, generation in generations.items()
        ]
        with self._write() as connection:
            upsert_rows(connection, tables.edge_acks, rows)

    def acknowledged(self, endpoint: str, *, alive_since: float) -> dict[str, int]:
        """Generation that each edge seen since `alive_since` (seconds since 1970) applies."""
        table = tables.edge_acks
        with self._read() as connection:
            rows = connection.execute(
                select(table.c.edge_id, table.c.generation).where(
                    table.c.endpoint == endpoint, table.c.at >= alive_since
                )
            )
            return {row.edge_id: row.generation for row in rows}

    def edge_signs(self) -> dict[str, float]:
        """Every edge known to its last sign of life, in seconds since 1970."""
        table = tables.edge_acks
        with self._read() as connection:
            last = select(table.c.edge_id, func.max(table.c.at).label("at")).group_by(table.c.edge_id)
            return {row.edge_id: row.at for row in connection.execute(last)}

    @retried
    def forget_edge(self, edge_id: str) -> None:
        """Wait for this edge no more; one that is not known is no error."""
        with self._write() as connection:
            connection.execute(delete(tables.edge_acks).where(tables.edge_acks.c.edge_id == edge_id))

    @retried
    def set_edge_limits(self, limits: Iterable[EdgeLimits]) -> None:
        """Say what edges hold these endpoints to; whoever gives Serve its configuration does."""
        rows = [{name: getattr(of_one, name) for name in EdgeLimits.__slots__} for of_one in limits]
        with self._write() as connection:
            upsert_rows(connection, tables.edge_limits, rows)

    def edge_limits(self) -> list[EdgeLimits]:
        """Those told so far, ordered by endpoint."""
        query = select(tables.edge_limits).order_by(tables.edge_limits.c.endpoint)
        with self._read() as connection:
            return [EdgeLimits(**row) for row in connection.execute(query).mappings()]
