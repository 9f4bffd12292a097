"""What edges say they apply: observed, told by the edges themselves. In no audit chain."""

from collections.abc import Mapping

from sqlalchemy import select

from runtime.store import tables
from runtime.store.database import Database, retried, upsert


class EdgeStore(Database):
    @retried
    def acknowledge(self, edge_id: str, generations: Mapping[str, int], at: float) -> None:
        """Record that an edge now applies these generations. `at` is seconds since 1970; also its sign of life."""
        with self._write() as connection:
            for endpoint, generation in generations.items():
                key = dict(edge_id=edge_id, endpoint=endpoint)
                values = dict(generation=generation, at=at)
                upsert(connection, tables.edge_acks, key, values)

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
