"""Leases with fencing tokens: one actor at a time, and none that was replaced writes any more."""

from sqlalchemy import Connection, select, update

from runtime.core.errors import ConflictError, UsageError
from runtime.store import tables
from runtime.store.database import Database, retried, upsert
from runtime.store.records import Fencing, Lease


class LeaseStore(Database):
    """`holder` names one life of one process, not its role: a restarted one gets a new token, and its old self none.

    Times are the caller's, in seconds since 1970. Clocks that differ between machines cost a lease early or late, never
    a double write: the token decides that.
    """

    @retried
    def acquire_lease(self, name: str, holder: str, ttl_s: float, now: float) -> Lease | None:
        """Take or keep the lease; None while another holds it. The token rises whenever it was free before."""
        if ttl_s <= 0:
            raise UsageError(f"ttl_s of lease {name!r} must be above 0 but got {ttl_s}")
        with self._write() as connection:
            found = _read_lease(connection, name)
            if found is not None and found.expires_at > now and found.holder != holder:
                return None
            keeps = found is not None and found.expires_at > now
            token = 1 if found is None else found.token + (not keeps)
            lease = Lease(name=name, holder=holder, token=token, expires_at=now + ttl_s)
            upsert(connection, tables.leases, {"name": name}, _values(lease))
            return lease

    @retried
    def renew_lease(self, lease: Lease, ttl_s: float, now: float) -> Lease | None:
        """Keep a lease for longer; None if another took it since. An expired one that nobody took is kept."""
        renewed = Lease(name=lease.name, holder=lease.holder, token=lease.token, expires_at=now + ttl_s)
        return renewed if self._change(lease, renewed) else None

    @retried
    def release_lease(self, lease: Lease) -> bool:
        """Give the lease back before it expires. False if it was another's already."""
        return self._change(lease, Lease(name=lease.name, holder=lease.holder, token=lease.token, expires_at=0))

    def lease(self, name: str) -> Lease | None:
        """Who took the lease last; it may have expired."""
        with self._read() as connection:
            return _read_lease(connection, name)

    def _change(self, lease: Lease, values: Lease) -> bool:
        columns = tables.leases.c
        mine = (columns.name == lease.name, columns.token == lease.token, columns.holder == lease.holder)
        with self._write() as connection:
            statement = update(tables.leases).where(*mine).values(**_values(values))
            return bool(connection.execute(statement).rowcount)


def check_fencing(connection: Connection, fencing: Fencing | None) -> None:
    """ConflictError if the lease under which a change is made is another's by now. In the change's own transaction."""
    if fencing is None:
        return
    name, token = fencing
    found = _read_lease(connection, name)
    if found is None or found.token != token:
        holder = "nobody" if found is None else f"{found.holder} with token {found.token}"
        raise ConflictError(f"token {token} of lease {name!r} is void: it is held by {holder}; nothing was changed")


def _read_lease(connection: Connection, name: str) -> Lease | None:
    row = connection.execute(select(tables.leases).where(tables.leases.c.name == name)).mappings().first()
    return None if row is None else Lease(**row)


def _values(lease: Lease) -> dict[str, object]:
    return {"holder": lease.holder, "token": lease.token, "expires_at": lease.expires_at}
