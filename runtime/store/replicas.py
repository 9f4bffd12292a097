"""Which replicas serve which slot: what is observed, told by the replicas themselves. In no audit chain."""

from sqlalchemy import delete, select

from runtime.store import tables
from runtime.store.database import Database, retried, upsert
from runtime.store.records import Replica


class ReplicaStore(Database):
    """A replica registers once it can answer, and beats until it is gone."""

    @retried
    def register_replica(self, replica: Replica) -> None:
        """Add the replica or replace what was known of it."""
        values = {name: getattr(replica, name) for name in Replica.__slots__}
        key = {"replica_id": values.pop("replica_id")}
        with self._write() as connection:
            upsert(connection, tables.replicas, key, values)

    @retried
    def remove_replica(self, replica_id: str) -> None:
        """Forget one replica; one that is not known is no error."""
        with self._write() as connection:
            connection.execute(delete(tables.replicas).where(tables.replicas.c.replica_id == replica_id))

    def replicas(self, endpoint: str | None = None) -> list[Replica]:
        """Those registered, of one endpoint or of all, ordered by endpoint, slot and id."""
        table = tables.replicas
        query = select(table).order_by(table.c.endpoint, table.c.slot, table.c.replica_id)
        if endpoint is not None:
            query = query.where(table.c.endpoint == endpoint)
        with self._read() as connection:
            return [Replica(**row) for row in connection.execute(query).mappings()]

    @retried
    def forget_replicas(self, before: float) -> int:
        """Remove those whose last sign of life is older than `before`; returns how many."""
        with self._write() as connection:
            return connection.execute(delete(tables.replicas).where(tables.replicas.c.at < before)).rowcount
